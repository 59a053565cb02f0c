from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn import metrics as reference

from finetune.errors import ModelError
from finetune.evaluation.multi_label_metrics import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    evaluate_multilabel,
    fit_sigmoid_temperature,
    multilabel_log_loss,
)
from finetune.evaluation.probabilities import sigmoid
from finetune.evaluation.thresholds import NEVER

LABELS = list("abcdef")


def made(
    seed: int = 4, photos: int = 120, labels: int = 6, skill: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truth = rng.random((photos, labels)) < 0.3
    return rng.normal(size=(photos, labels)) + skill * truth - 1, truth


def _reference(
    truth: NDArray[np.int64], scores: NDArray[np.float64], predicted: NDArray[np.int64]
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        present = truth.any(axis=0)
        return {
            "mean_average_precision": reference.average_precision_score(
                truth[:, present], scores[:, present], average="macro"
            ),
            "micro_average_precision": reference.average_precision_score(
                truth, scores, average="micro"
            ),
            "exact_match": reference.accuracy_score(truth, predicted),
            "hamming_loss": reference.hamming_loss(truth, predicted),
            "macro_f1": reference.f1_score(truth, predicted, average="macro", zero_division=np.nan),
            "micro_f1": reference.f1_score(truth, predicted, average="micro", zero_division=np.nan),
        }


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("absent", [False, True])
def test_metrics_equal_scikit_learns(absent: bool, temperature: float) -> None:
    logits, truth = made()
    if absent:
        truth[:, 2] = False
        logits[:, 2] = -5
    thresholds = np.array([0.5, 0.2, 0.5, 0.7, 0.35, 0.9])
    ours = evaluate_multilabel(
        logits, truth, LABELS, temperature=temperature, thresholds=thresholds.tolist()
    )
    shares = 1 / (1 + np.exp(-logits / temperature))
    predicted = shares >= thresholds
    expected = _reference(truth.astype(int), logits, predicted.astype(int))
    assert set(expected) <= set(ours)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    precision, recall, f1, photos = reference.precision_recall_fscore_support(
        truth, predicted, zero_division=np.nan
    )
    for c, label in enumerate(LABELS):
        mine = ours["labels"][label]
        assert mine["photos"] == photos[c]
        assert mine["predicted"] == predicted[:, c].sum()
        assert mine["threshold"] == thresholds[c]
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            assert (mine[name] is None) == np.isnan(values[c]), (label, name)
            if mine[name] is not None:
                assert mine[name] == pytest.approx(values[c], abs=1e-9)
        if truth[:, c].any():
            average = reference.average_precision_score(truth[:, c], logits[:, c])
            assert mine["average_precision"] == pytest.approx(average, abs=1e-9)
        else:
            assert mine["average_precision"] is None
    loss = sum(reference.log_loss(truth[:, c], shares[:, c], labels=[0, 1]) for c in range(6))
    assert ours["log_loss"] == pytest.approx(loss, abs=1e-9)
    brier = np.mean([reference.brier_score_loss(truth[:, c], shares[:, c]) for c in range(6)])
    assert ours["brier"] == pytest.approx(brier, abs=1e-9)
    json.dumps(ours, allow_nan=False)


def test_calibration_error_is_the_mean_gap_of_fifteen_bins() -> None:
    logits, truth = made(seed=8)
    shares = (1 / (1 + np.exp(-logits / 0.7))).ravel()
    expected = 0.0
    for k in range(15):
        inside = (shares > k / 15) & (shares <= (k + 1) / 15)
        if inside.any():
            gap = abs(shares[inside].mean() - truth.ravel()[inside].mean())
            expected += inside.mean() * gap
    ours = evaluate_multilabel(logits, truth, LABELS, temperature=0.7)
    assert ours["ece"] == pytest.approx(expected, abs=1e-12)
    plain = evaluate_multilabel(logits, truth, LABELS)
    assert ours["uncalibrated"]["ece"] == plain["ece"]


def test_intervals_are_those_of_a_bootstrap_over_photos() -> None:
    logits, truth = made(seed=3, photos=80, labels=3)
    ours = evaluate_multilabel(logits, truth, list("abc"))
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"mean_average_precision": [], "macro_f1": [], "micro_f1": []}
    for _ in range(400):
        again = rng.integers(0, 80, 80)
        t, z = truth[again].astype(int), logits[again]
        expected = _reference(t, z, (z >= 0).astype(int))
        for name, values in found.items():
            values.append(expected[name])
    for name, values in found.items():
        low, high = ours[f"{name}_interval"]
        assert low <= ours[name] <= high
        # Two bootstraps of other draws agree to within their own noise.
        assert [low, high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.025), name


def test_metrics_without_predicted_and_true_labels_are_undefined() -> None:
    ours = evaluate_multilabel([[-1.0, -2.0]], [[0, 0]], ["a", "b"])
    assert ours["exact_match"] == 1.0
    assert ours["hamming_loss"] == 0.0
    for name in ("mean_average_precision", "micro_average_precision", "macro_f1", "micro_f1"):
        assert ours[name] is None
    assert ours["mean_average_precision_interval"] is None
    json.dumps(ours, allow_nan=False)


def test_a_threshold_is_a_probability() -> None:
    logit = np.log(0.8 / 0.2)
    at = evaluate_multilabel([[logit - 1e-6], [logit + 1e-6]], [[1], [1]], ["a"], thresholds=[0.8])
    assert at["labels"]["a"]["predicted"] == 1


def test_a_label_that_is_never_predicted_has_no_threshold() -> None:
    found = evaluate_multilabel([[9.0]], [[1]], ["a"], thresholds=[NEVER])["labels"]["a"]
    assert found["threshold"] is None
    assert found["predicted"] == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(1, 2\) and truth \(1, 1\) do not fit"):
        evaluate_multilabel([[0.0, 1.0]], [[0]], ["a", "b"])
    with pytest.raises(ValueError, match="2 columns of logits, but 1 labels"):
        evaluate_multilabel([[0.0, 1.0]], [[0, 1]], ["a"])
    with pytest.raises(ValueError, match=r"2 labels, but thresholds have shape \(1,\)"):
        evaluate_multilabel([[0.0, 1.0]], [[0, 1]], ["a", "b"], thresholds=[0.5])
    with pytest.raises(ModelError, match="for 1 of 1 photos are not finite"):
        evaluate_multilabel([[np.nan, 1.0]], [[0, 1]], ["a", "b"])


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_temperature_minimizes_the_log_loss(true_temperature: float) -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(size=(300, 4)) * 2
    truth = rng.random((300, 4)) < 1 / (1 + np.exp(-honest))
    logits = honest * true_temperature
    ours = fit_sigmoid_temperature(logits, truth)
    expected = 300 / 301 * truth + 0.5 / 301

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, z) - expected * z).mean())

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert ours == pytest.approx(np.exp(best.x), rel=1e-5)
    assert ours == pytest.approx(true_temperature, rel=0.15)


def test_temperature_without_mistakes_stays_within_its_bounds() -> None:
    truth = np.eye(3, dtype=bool)
    assert (
        MIN_TEMPERATURE
        <= fit_sigmoid_temperature(np.where(truth, 9.0, -9.0), truth)
        <= MAX_TEMPERATURE
    )
    assert fit_sigmoid_temperature(np.where(truth, -5.0, 5.0), truth) == MAX_TEMPERATURE
    assert fit_sigmoid_temperature(np.zeros((2, 3)), np.zeros((2, 3))) == 1.0
    assert fit_sigmoid_temperature(np.zeros((0, 3)), np.zeros((0, 3))) == 1.0


def test_log_loss_is_the_binary_cross_entropy_of_each_photo() -> None:
    logits, truth = made(photos=30)
    p = 1 / (1 + np.exp(-logits))
    expected = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum(axis=1).mean()
    assert multilabel_log_loss(logits, truth) == pytest.approx(expected, abs=1e-12)


def test_sigmoid_neither_overflows_nor_loses_small_shares() -> None:
    found = sigmoid([[-1e4, -700.0, -1.0, 0.0, 1.0, 1e4]], temperature=2.0)
    expected = [0.0, np.exp(-350), 1 / (1 + np.e**0.5), 0.5, 1 / (1 + np.e**-0.5), 1.0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
