from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from finetune.errors import ModelError
from finetune.evaluation.calibration import COLDEST, HOTTEST, PRIOR, fit_temperature
from finetune.evaluation.probabilities import log_softmax
from finetune.evaluation.reliability import expected_calibration_error, log_loss


def drawn_at(temperature: float, photos: int, *, labels: int = 6, seed: int = 0):
    """Logits whose truth is drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(photos, labels)) * 3
    noise = rng.gumbel(size=logits.shape)  # argmax(z + Gumbel) is a draw from softmax(z)
    return logits, (logits / temperature + noise).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_recovers_the_temperature_that_the_truth_was_drawn_at(temperature):
    logits, targets = drawn_at(temperature, 40_000)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("photos", [3, 30, 300])
def test_is_the_most_probable_temperature_that_its_docstring_states(photos):
    logits, targets = drawn_at(2.0, photos, seed=photos)

    def surprise(logarithm: float) -> float:
        loss = log_loss(logits / np.exp(logarithm), targets)
        return photos * loss + logarithm**2 / (2 * PRIOR**2)

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    best = minimize_scalar(surprise, bounds=bounds, options={"xatol": 1e-10})
    assert np.log(fit_temperature(logits, targets)) == pytest.approx(best.x, abs=1e-5)


def test_lowers_log_loss_and_ece_on_photos_it_was_not_fitted_on():
    logits, targets = drawn_at(3.0, 4000)
    temperature = fit_temperature(logits[:2000], targets[:2000])
    test, truth = logits[2000:], targets[2000:]
    assert log_loss(test / temperature, truth) < log_loss(test, truth)

    def ece(scale: float) -> float:
        return expected_calibration_error(np.exp(log_softmax(test / scale)), truth)

    assert ece(temperature) < 0.25 * ece(1.0)


def test_few_photos_say_little_and_many_decide():
    logits, targets = drawn_at(3.0, 4000)
    found = [fit_temperature(logits[:n], targets[:n]) for n in (4, 40, 4000)]
    assert 1 < found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(3.0, rel=0.1)


def test_an_all_right_validation_part_does_not_make_it_sure_of_everything():
    few, targets = np.eye(3)[np.arange(10) % 3] * 2, np.arange(10) % 3
    many = np.tile(few, (100, 1)), np.tile(targets, 100)
    assert 0.5 < fit_temperature(few, targets) < 1
    assert fit_temperature(*many) < fit_temperature(few, targets)


def test_an_all_wrong_validation_part_makes_it_less_sure():
    logits, targets = np.eye(3)[np.arange(9) % 3] * 4, (np.arange(9) + 1) % 3
    assert fit_temperature(logits, targets) > 2
    assert fit_temperature(np.tile(logits, (400, 1)), np.tile(targets, 400)) == HOTTEST


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9])
def test_logits_of_any_size_give_a_temperature_within_the_bounds(scale):
    logits = np.eye(2)[np.arange(100) % 2] * scale
    for targets in (np.arange(100) % 2, np.arange(1, 101) % 2, np.zeros(100, int)):
        assert COLDEST <= fit_temperature(logits, targets) <= HOTTEST


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.array([[2.0], [1.0]]), np.array([0, 0])),
        (np.full((4, 3), 7.0), np.array([0, 1, 2, 0])),
    ],
    ids=["no photos", "one label", "equal logits"],
)
def test_is_one_where_there_is_nothing_to_learn(logits, targets):
    assert fit_temperature(logits, targets) == 1.0


def test_one_photo_gives_a_finite_temperature():
    assert COLDEST <= fit_temperature([[2.0, 1.0]], [0]) <= HOTTEST


def test_does_not_change_with_a_shift_of_all_logits():
    logits, targets = drawn_at(1.7, 200)
    shifted = fit_temperature(logits + 1000.0, targets)
    assert shifted == pytest.approx(fit_temperature(logits, targets), rel=1e-8)


def test_a_diverged_network_is_refused():
    with pytest.raises(ModelError, match="training has diverged"):
        fit_temperature([[np.nan, 0.0]], [0])
