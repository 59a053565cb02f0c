from __future__ import annotations

import itertools

import numpy as np
import pytest

from finetune.evaluation.probabilities import log_softmax, softmax
from finetune.evaluation.reliability import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    bin_confidence,
    calibration_gap,
    coverage_at_precision,
    expected_calibration_error,
    honest_gap,
    reliability_bins,
    risk_coverage,
)


def test_ece_equals_guos_formula_photo_by_photo(case):
    logits, targets = case
    probabilities = softmax(logits)
    members = {m: [] for m in range(15)}
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


def test_adaptive_ece_equals_its_formula_where_nothing_ties():
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


def test_calibration_errors_do_not_depend_on_the_order_of_photos(case):
    logits, targets = case
    shuffled = np.random.default_rng(0).permutation(len(targets))
    for error in (expected_calibration_error, adaptive_calibration_error):
        a = error(softmax(logits), targets)
        b = error(softmax(logits[shuffled]), targets[shuffled])
        assert a == pytest.approx(b, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = reliability_bins([[0.5, 0.5], [0.75, 0.25]], [0, 1], bins=4)
    assert [b.photos for b in bins] == [0, 1, 1, 0]
    assert (bins[1].confidence, bins[1].accuracy) == (0.5, 1.0)
    assert (bins[2].confidence, bins[2].accuracy) == (0.75, 0.0)
    assert bins[0].confidence is None
    assert bins[0].accuracy is None


def test_aurc_equals_the_mean_over_every_order_of_ties():
    confidence = np.array([0.9, 0.7, 0.7, 0.7, 0.2])
    correct = np.array([1, 0, 1, 1, 0])
    found = []
    for order in itertools.permutations([1, 2, 3]):
        wrong = 1 - correct[[0, *order, 4]]
        found.append(np.mean([wrong[:k].mean() for k in range(1, 6)]))
    assert area_under_risk_coverage(confidence, correct) == pytest.approx(np.mean(found), abs=1e-9)


def test_aurc_equals_its_formula_on_random_scores():
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(300), rng.integers(0, 2, 300)
    total, wrong = 0.0, 0
    for k, index in enumerate(sorted(range(300), key=lambda i: -confidence[i]), start=1):
        wrong += 1 - correct[index]
        total += wrong / k
    assert area_under_risk_coverage(confidence, correct) == pytest.approx(total / 300, abs=1e-9)


def test_full_coverage_has_the_plain_error_rate():
    coverage, risk = risk_coverage([0.1, 0.9, 0.5], [0, 1, 0])
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3])


@pytest.mark.parametrize("precision", [0.5, 0.9, 0.95, 1.0])
def test_coverage_at_precision_equals_trying_every_threshold(precision):
    rng = np.random.default_rng(7)
    confidence = np.round(rng.random(200), 2)  # with ties
    correct = rng.random(200) < confidence
    expected = 0.0
    for threshold in np.unique(confidence):
        answered = confidence >= threshold
        if correct[answered].sum() >= precision * answered.sum():
            expected = max(expected, answered.mean())
    assert coverage_at_precision(confidence, correct, precision) == pytest.approx(expected)


def test_nineteen_of_twenty_reaches_ninety_five_in_a_hundred():
    confidence, correct = np.arange(20)[::-1], np.r_[np.ones(19), 0]
    assert coverage_at_precision(confidence, correct, 0.95) == 1.0


def test_coverage_is_zero_where_even_the_surest_are_wrong():
    assert coverage_at_precision([0.9, 0.8], [0, 0], 0.5) == 0.0


def test_log_softmax_keeps_what_probabilities_lose():
    assert log_softmax([[1000.0, 0.0]]).tolist() == [[0.0, -1000.0]]
    assert softmax([[1000.0, -1000.0]]).tolist() == [[1.0, 0.0]]


def test_an_honest_model_has_the_gap_that_coins_give_it():
    confidence = np.random.default_rng(0).uniform(0.4, 1.0, 60)
    ours = honest_gap(confidence, resamples=4000, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    gaps = []
    for _ in range(4000):
        correct = (rng.random(60) < confidence).astype(float)
        gaps.append(calibration_gap(bin_confidence(confidence, correct)))
    assert ours.mean == pytest.approx(np.mean(gaps), rel=0.02)
    assert ours.high == pytest.approx(np.quantile(gaps, 0.95), rel=0.03)


def test_an_honest_gap_shrinks_with_the_root_of_the_photos():
    confidence = np.random.default_rng(0).uniform(0.4, 1.0, 100)
    few = honest_gap(confidence, rng=np.random.default_rng(1)).mean
    many = honest_gap(np.tile(confidence, 100), rng=np.random.default_rng(1)).mean
    assert many == pytest.approx(few / 10, rel=0.1)


def test_who_is_always_sure_and_right_has_no_gap():
    found = honest_gap(np.ones(5), rng=np.random.default_rng(0))
    assert (found.mean, found.high) == (0.0, 0.0)
