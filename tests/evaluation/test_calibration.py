from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from finetune.errors import ModelError
from finetune.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    PRIOR,
    adaptive_calibration_error,
    area_under_risk_coverage,
    bin_confidence,
    calibration_gap,
    coverage_at_precision,
    expected_calibration_error,
    expected_gap,
    fit_temperature,
    log_loss,
    reliability_bins,
    risk_coverage,
)
from finetune.evaluation.probabilities import log_softmax, softmax

Case = tuple[NDArray[np.float64], NDArray[np.int64]]


def drawn_at(
    temperature: float, photos: int, *, labels: int = 6, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose truth is drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(photos, labels)) * 3
    noise = rng.gumbel(size=logits.shape)  # argmax(z + Gumbel) is a draw from softmax(z)
    return logits, (logits / temperature + noise).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_recovers_the_temperature_that_the_truth_was_drawn_at(temperature: float) -> None:
    logits, targets = drawn_at(temperature, 40_000)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("photos", [3, 30, 300])
def test_is_the_most_probable_temperature_that_its_docstring_states(photos: int) -> None:
    logits, targets = drawn_at(2.0, photos, seed=photos)

    def surprise(logarithm: float) -> float:
        loss = log_loss(logits / np.exp(logarithm), targets)
        return photos * loss + logarithm**2 / (2 * PRIOR**2)

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    best = minimize_scalar(surprise, bounds=bounds, options={"xatol": 1e-10})
    assert np.log(fit_temperature(logits, targets)) == pytest.approx(best.x, abs=1e-5)


def test_lowers_log_loss_and_ece_on_photos_it_was_not_fitted_on() -> None:
    logits, targets = drawn_at(3.0, 4000)
    temperature = fit_temperature(logits[:2000], targets[:2000])
    test, truth = logits[2000:], targets[2000:]
    assert log_loss(test / temperature, truth) < log_loss(test, truth)

    def ece(scale: float) -> float:
        return expected_calibration_error(np.exp(log_softmax(test / scale)), truth)

    assert ece(temperature) < 0.25 * ece(1.0)


def test_the_prior_matters_with_few_photos_only() -> None:
    logits, targets = drawn_at(3.0, 4000)
    found = [fit_temperature(logits[:n], targets[:n]) for n in (4, 40, 4000)]
    assert 1 < found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(3.0, rel=0.1)


def test_an_all_right_validation_part_does_not_make_it_sure_of_everything() -> None:
    few, targets = np.eye(3)[np.arange(10) % 3] * 2, np.arange(10) % 3
    many = np.tile(few, (100, 1)), np.tile(targets, 100)
    assert 0.5 < fit_temperature(few, targets) < 1
    assert fit_temperature(*many) < fit_temperature(few, targets)


def test_an_all_wrong_validation_part_makes_it_less_sure() -> None:
    logits, targets = np.eye(3)[np.arange(9) % 3] * 4, (np.arange(9) + 1) % 3
    assert fit_temperature(logits, targets) > 2
    assert fit_temperature(np.tile(logits, (400, 1)), np.tile(targets, 400)) == MAX_TEMPERATURE


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9])
def test_logits_of_any_size_give_a_temperature_within_the_bounds(scale: float) -> None:
    logits = np.eye(2)[np.arange(100) % 2] * scale
    for targets in (np.arange(100) % 2, np.arange(1, 101) % 2, np.zeros(100, int)):
        assert MIN_TEMPERATURE <= fit_temperature(logits, targets) <= MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.array([[2.0], [1.0]]), np.array([0, 0])),
        (np.full((4, 3), 7.0), np.array([0, 1, 2, 0])),
    ],
    ids=["no photos", "one label", "equal logits"],
)
def test_is_one_where_there_is_nothing_to_learn(
    logits: NDArray[np.float64], targets: NDArray[np.int64]
) -> None:
    assert fit_temperature(logits, targets) == 1.0


def test_one_photo_gives_a_finite_temperature() -> None:
    assert MIN_TEMPERATURE <= fit_temperature([[2.0, 1.0]], [0]) <= MAX_TEMPERATURE


def test_does_not_change_with_a_shift_of_all_logits() -> None:
    logits, targets = drawn_at(1.7, 200)
    shifted = fit_temperature(logits + 1000.0, targets)
    assert shifted == pytest.approx(fit_temperature(logits, targets), rel=1e-8)


def test_a_diverged_network_is_refused() -> None:
    with pytest.raises(ModelError, match="training has diverged"):
        fit_temperature([[np.nan, 0.0]], [0])


def test_ece_equals_guos_formula_photo_by_photo(case: Case) -> None:
    logits, targets = case
    probabilities = softmax(logits)
    members: dict[int, list[tuple[float, float]]] = {m: [] for m in range(15)}
    for row, truth in zip(probabilities, targets, strict=True):
        confidence = row.max()
        for m in members:
            if m / 15 < confidence <= (m + 1) / 15 or (m == 14 and confidence > 1):
                members[m].append((confidence, float(row.argmax() == truth)))
    expected = sum(
        len(b) / len(targets) * abs(np.mean([a for _, a in b]) - np.mean([c for c, _ in b]))
        for b in members.values()
        if b
    )
    assert expected_calibration_error(probabilities, targets) == pytest.approx(expected, abs=1e-9)


def test_adaptive_ece_equals_its_formula_where_nothing_ties() -> None:
    rng = np.random.default_rng(5)
    logits, targets = rng.normal(size=(203, 5)), rng.integers(0, 5, 203)
    probabilities = softmax(logits)
    pairs = sorted(
        (row.max(), float(row.argmax() == t)) for row, t in zip(probabilities, targets, strict=True)
    )
    expected, start = 0.0, 0
    for k in range(15):
        size = 203 // 15 + (k < 203 % 15)
        part = pairs[start : start + size]
        start += size
        expected += size / 203 * abs(np.mean([a for _, a in part]) - np.mean([c for c, _ in part]))
    assert adaptive_calibration_error(probabilities, targets) == pytest.approx(expected, abs=1e-9)


def test_calibration_errors_do_not_depend_on_the_order_of_photos(case: Case) -> None:
    logits, targets = case
    shuffled = np.random.default_rng(0).permutation(len(targets))
    for error in (expected_calibration_error, adaptive_calibration_error):
        a = error(softmax(logits), targets)
        b = error(softmax(logits[shuffled]), targets[shuffled])
        assert a == pytest.approx(b, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    bins = reliability_bins([[0.5, 0.5], [0.75, 0.25]], [0, 1], bins=4)
    assert [b.photos for b in bins] == [0, 1, 1, 0]
    assert (bins[1].confidence, bins[1].accuracy) == (0.5, 1.0)
    assert (bins[2].confidence, bins[2].accuracy) == (0.75, 0.0)
    assert bins[0].confidence is None
    assert bins[0].accuracy is None


def test_aurc_equals_the_mean_over_every_order_of_ties() -> None:
    confidence = np.array([0.9, 0.7, 0.7, 0.7, 0.2])
    correct = np.array([1, 0, 1, 1, 0])
    found = []
    for order in itertools.permutations([1, 2, 3]):
        wrong = 1 - correct[[0, *order, 4]]
        found.append(np.mean([wrong[:k].mean() for k in range(1, 6)]))
    assert area_under_risk_coverage(confidence, correct) == pytest.approx(np.mean(found), abs=1e-9)


def test_aurc_equals_its_formula_on_random_scores() -> None:
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(300), rng.integers(0, 2, 300)
    total, wrong = 0.0, 0
    for k, index in enumerate(sorted(range(300), key=lambda i: -confidence[i]), start=1):
        wrong += 1 - correct[index]
        total += wrong / k
    assert area_under_risk_coverage(confidence, correct) == pytest.approx(total / 300, abs=1e-9)


def test_full_coverage_has_the_plain_error_rate() -> None:
    coverage, risk = risk_coverage([0.1, 0.9, 0.5], [0, 1, 0])
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3])


@pytest.mark.parametrize("precision", [0.5, 0.9, 0.95, 1.0])
def test_coverage_at_precision_equals_trying_every_threshold(precision: float) -> None:
    rng = np.random.default_rng(7)
    confidence = np.round(rng.random(200), 2)  # with ties
    correct = rng.random(200) < confidence
    expected = 0.0
    for threshold in np.unique(confidence):
        answered = confidence >= threshold
        if correct[answered].sum() >= precision * answered.sum():
            expected = max(expected, answered.mean())
    assert coverage_at_precision(confidence, correct, precision) == pytest.approx(expected)


def test_nineteen_of_twenty_reaches_ninety_five_in_a_hundred() -> None:
    confidence, correct = np.arange(20)[::-1], np.r_[np.ones(19), 0]
    assert coverage_at_precision(confidence, correct, 0.95) == 1.0


def test_coverage_is_zero_where_even_the_surest_are_wrong() -> None:
    assert coverage_at_precision([0.9, 0.8], [0, 0], 0.5) == 0.0


def test_log_softmax_keeps_what_probabilities_lose() -> None:
    assert log_softmax([[1000.0, 0.0]]).tolist() == [[0.0, -1000.0]]
    assert softmax([[1000.0, -1000.0]]).tolist() == [[1.0, 0.0]]


def test_an_honest_model_has_the_gap_that_coins_give_it() -> None:
    confidence = np.random.default_rng(0).uniform(0.4, 1.0, 60)
    ours = expected_gap(confidence, resamples=4000, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    gaps = []
    for _ in range(4000):
        correct = (rng.random(60) < confidence).astype(float)
        gaps.append(calibration_gap(bin_confidence(confidence, correct)))
    assert ours.mean == pytest.approx(np.mean(gaps), rel=0.02)
    assert ours.high == pytest.approx(np.quantile(gaps, 0.95), rel=0.03)


def test_an_honest_gap_shrinks_with_the_root_of_the_photos() -> None:
    confidence = np.random.default_rng(0).uniform(0.4, 1.0, 100)
    few = expected_gap(confidence, rng=np.random.default_rng(1)).mean
    many = expected_gap(np.tile(confidence, 100), rng=np.random.default_rng(1)).mean
    assert many == pytest.approx(few / 10, rel=0.1)


def test_certain_and_correct_predictions_have_no_gap() -> None:
    found = expected_gap(np.ones(5), rng=np.random.default_rng(0))
    assert (found.mean, found.high) == (0.0, 0.0)
