from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax

from finetune.training.validation import CAUTIOUS_SHARPNESS, Answers, cautious_losses


def one_label(seed: int, count: int = 40, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, labels, count)
    logits = rng.normal(size=(count, labels)) + 2 * np.eye(labels)[targets]
    return logits.astype(np.float32), targets


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_those_of_laplace_and_the_factor_is_the_best(seed: int) -> None:
    logits, targets = one_label(seed)
    wanted = np.full(logits.shape, 1 / 43)
    wanted[np.arange(40), targets] = 41 / 43

    def losses(factor: float) -> np.ndarray:
        return -(wanted * log_softmax(logits.astype(np.float64) * factor, axis=1)).sum(axis=1)

    found = cautious_losses(Answers(logits, targets))
    assert any(np.allclose(found, losses(factor), atol=1e-12) for factor in CAUTIOUS_SHARPNESS)
    # The factors are close enough together to come near the minimum over all of them.
    least = minimize_scalar(lambda f: losses(f).mean(), bounds=(0.03, 8), method="bounded").fun
    assert least - 1e-9 <= found.mean() <= least * 1.03


def test_each_of_several_labels_is_a_question_with_platts_targets() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((30, 4)) < 0.3
    logits = (rng.normal(size=(30, 4)) + 3 * truth - 1.5).astype(np.float32)
    wanted = np.where(truth, 31 / 32, 1 / 32)

    def losses(factor: float) -> np.ndarray:
        z = logits.astype(np.float64) * factor
        return -(wanted * log_expit(z) + (1 - wanted) * log_expit(-z)).sum(axis=1)

    found = cautious_losses(Answers(logits, truth.astype(np.float32)))
    best = min((losses(factor) for factor in CAUTIOUS_SHARPNESS), key=lambda each: each.mean())
    np.testing.assert_allclose(found, best, atol=1e-12)


def test_being_surer_of_photos_that_are_all_named_rightly_counts_for_nothing() -> None:
    targets = np.array([0, 1] * 20)
    margins = np.linspace(1, 3, 40)
    sides = np.where(targets == 0, 1, -1) * margins / 2
    logits = np.stack([sides, -sides], axis=1).astype(np.float32)
    surer = [cautious_losses(Answers(logits * scale, targets)) for scale in (1, 2)]
    np.testing.assert_allclose(surer[0], surer[1], atol=1e-6)
    # A plain loss would call the second better on every photo.
    assert (expit(-2 * margins) < expit(-margins)).all()


def test_a_photo_that_is_named_wrongly_counts() -> None:
    logits, targets = one_label(5)
    right = logits.copy()
    right[np.arange(40), targets] = right.max(axis=1) + 1
    wrong = right.copy()
    wrong[0] = np.roll(wrong[0], 1)
    answers = [cautious_losses(Answers(z, targets)).mean() for z in (right, wrong)]
    assert answers[0] < answers[1]
