from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_score

from finetune.evaluation.thresholds import (
    NEVER,
    f1_threshold,
    fit_thresholds,
    precision_threshold,
)


def draws(seed: int, decimals: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truth = rng.random(40) < rng.uniform(0.05, 0.6)
    truth[0] = True
    scores = np.clip(rng.random(40) * 0.6 + 0.35 * truth, 0, 1)
    return np.round(scores, decimals), truth


def every_cut(scores: NDArray[np.float64]) -> list[float]:
    """Returns a threshold for each division of the photos."""
    values = np.unique(scores)
    return [0.0, *((values[1:] + values[:-1]) / 2), values[-1] + 1e-9]


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("seed", range(12))
def test_no_threshold_has_a_better_f1(seed: int, decimals: int) -> None:
    scores, truth = draws(seed, decimals)
    best = max(f1_score(truth, scores >= cut, zero_division=0) for cut in every_cut(scores))
    chosen = f1_threshold(scores, truth)
    assert 0 <= chosen <= 1
    assert f1_score(truth, scores >= chosen) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_few_photos_of_a_label_are_helped_out_by_their_probabilities(seed: int) -> None:
    scores, truth = draws(seed, 9)
    own = truth.sum() / (truth.sum() + 10)
    likely = own * truth + (1 - own) * scores

    def expected_f1(cut: float) -> float:
        predicted = scores >= cut
        return float(2 * likely[predicted].sum() / max(predicted.sum() + likely.sum(), 1e-9))

    (chosen,) = fit_thresholds(scores[:, None], truth[:, None])
    best = max(expected_f1(cut) for cut in every_cut(scores))
    assert expected_f1(chosen) == pytest.approx(best, abs=1e-12)


def test_thresholds_of_few_photos_do_better_on_new_ones_than_the_best_f1_of_these() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / (1 + np.exp(-(-1.5 + 2 * rng.normal(size=(2000, 40)))))
    truth = rng.random(shares.shape) < shares
    few, new = slice(0, 30), slice(30, None)
    plain = [f1_threshold(p, t) for p, t in zip(shares[few].T, truth[few].T, strict=True)]
    found = {}
    for name, limits in (("plain", plain), ("helped", fit_thresholds(shares[few], truth[few]))):
        predicted = shares[new] >= np.array(limits)
        found[name] = f1_score(truth[new], predicted, average="macro")
    assert found["helped"] > found["plain"] + 0.01


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(12))
def test_the_lowest_threshold_of_the_stated_precision_is_found(seed: int, precision: float) -> None:
    scores, truth = draws(seed, 2)
    good = [
        (scores >= cut).sum()
        for cut in every_cut(scores)
        if (scores >= cut).any() and precision_score(truth, scores >= cut) >= precision - 1e-12
    ]
    chosen = precision_threshold(scores, truth, precision)
    if not good:
        assert chosen == NEVER
    else:
        assert precision_score(truth, scores >= chosen) >= precision - 1e-12
        assert (scores >= chosen).sum() == max(good)


def test_a_threshold_lies_between_the_photos_that_it_divides() -> None:
    assert f1_threshold([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0]) == 0.5
    assert f1_threshold([0.95, 0.9, 0.7, 0.6], [1, 1, 0, 0]) == pytest.approx(0.8)
    assert f1_threshold([0.4, 0.3, 0.1], [1, 0, 0]) == pytest.approx(0.35)


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_taken() -> None:
    # The first alone: precision 1, recall 1/2, F1 2/3. All four: precision 1/2, recall 1, F1 2/3.
    assert f1_threshold([0.9, 0.6, 0.4, 0.2], [1, 0, 0, 1]) == pytest.approx(0.75)
    assert f1_threshold([0.99, 0.9, 0.6, 0.4], [1, 0, 0, 1]) == pytest.approx(0.2)


def test_a_label_without_photos_keeps_the_usual_threshold() -> None:
    assert f1_threshold([0.9, 0.2], [0, 0]) == 0.5
    assert precision_threshold([0.9, 0.2], [0, 0], 0.9) == 0.5


def test_neighboring_floats_are_divided_too() -> None:
    low = 0.7
    high = np.nextafter(low, 1)
    chosen = f1_threshold([high, low], [1, 0])
    assert low < chosen <= high


def test_each_label_has_its_own() -> None:
    shares = np.array([[0.9, 0.2], [0.8, 0.1], [0.3, 0.05]])
    truth = np.array([[1, 1], [1, 0], [0, 0]])
    assert fit_thresholds(shares, truth) == pytest.approx((0.5, 0.15))
    assert fit_thresholds(shares, truth[:, ::-1], precision=1.0) == pytest.approx((0.85, 0.075))
