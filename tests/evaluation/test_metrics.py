"""Metrics compared with scikit-learn and with their formulas."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from finetune.errors import ModelError
from finetune.evaluation.metrics import (
    average_precision,
    evaluate_logits,
    resampled_average_precision,
    top_k_accuracies,
)
from finetune.evaluation.probabilities import softmax

Case = tuple[NDArray[np.float64], NDArray[np.int64]]

LABELS = [f"label {k:02d}" for k in range(40)]


def evaluate(
    logits: NDArray[Any], targets: NDArray[np.int64], temperature: float = 1.0
) -> dict[str, Any]:
    labels = LABELS[: logits.shape[1]]
    return evaluate_logits(logits, targets, labels, temperature=temperature)


def same(ours: float | None, theirs: float) -> bool:
    """None is our JSON for an undefined value, NaN is scikit-learn's."""
    if ours is None:
        return bool(np.isnan(theirs))
    return abs(ours - float(theirs)) <= 1e-9


@pytest.fixture(autouse=True)
def _let_scikit_learn_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        yield


def test_accuracies_equal_scikit_learns(case: Case) -> None:
    logits, targets = case
    ours, predicted = evaluate(logits, targets), logits.argmax(axis=1)
    assert same(ours["top1"], reference.accuracy_score(targets, predicted))
    assert same(ours["balanced_accuracy"], reference.balanced_accuracy_score(targets, predicted))
    assert same(ours["macro_f1"], reference.f1_score(targets, predicted, average="macro"))
    assert same(ours["weighted_f1"], reference.f1_score(targets, predicted, average="weighted"))
    assert same(ours["kappa"], reference.cohen_kappa_score(targets, predicted))


def test_each_labels_scores_equal_scikit_learns(case: Case) -> None:
    logits, targets = case
    labels, classes = evaluate(logits, targets)["labels"], range(logits.shape[1])
    precision, recall, f1, photos = reference.precision_recall_fscore_support(
        targets, logits.argmax(axis=1), labels=classes, zero_division=np.nan
    )
    for c in classes:
        mine = labels[LABELS[c]]
        assert same(mine["precision"], precision[c])
        assert same(mine["recall"], recall[c])
        assert same(mine["f1"], f1[c])
        assert mine["photos"] == photos[c]
        assert mine["predicted"] == (logits.argmax(axis=1) == c).sum()


def test_top_k_equals_scikit_learns_with_its_tie_order_turned_round(case: Case) -> None:
    logits, targets = case
    labels = logits.shape[1]
    if labels < 3:
        pytest.skip("scikit-learn takes two labels as one score")
    ours = top_k_accuracies(logits, targets)
    # scikit-learn gives ties to the last column, we to the first.
    for k in range(1, min(5, labels - 1) + 1):
        theirs = reference.top_k_accuracy_score(
            labels - 1 - targets, logits[:, ::-1], k=k, labels=range(labels)
        )
        assert same(ours[k - 1], theirs)
    assert ours[labels - 1 :] == [1.0] * (5 - min(labels - 1, 5))


def test_top1_equals_argmax_where_logits_tie() -> None:
    assert top_k_accuracies([[1.0, 1.0, 0.0]] * 2, [0, 1])[:2] == [0.5, 1.0]


def test_scores_of_probabilities_equal_scikit_learns(case: Case) -> None:
    logits, targets = case
    ours, classes = evaluate(logits, targets), list(range(logits.shape[1]))
    probabilities = softmax(logits)
    assert same(ours["log_loss"], reference.log_loss(targets, probabilities, labels=classes))
    one_hot = np.eye(len(classes))[targets]
    by_formula = sum(math.fsum(row) for row in (probabilities - one_hot) ** 2) / len(targets)
    assert same(ours["brier"], by_formula)
    if len(classes) == 2:
        yes = reference.brier_score_loss(targets, probabilities[:, 1], pos_label=1)
        assert same(ours["brier"], 2 * yes)
    present = one_hot.any(axis=0)
    each = [
        reference.average_precision_score(one_hot[:, c], probabilities[:, c])
        for c in np.flatnonzero(present)
    ]
    assert same(ours["mean_average_precision"], np.mean(each))
    mine = [ours["labels"][LABELS[c]]["average_precision"] for c in classes]
    assert [value is not None for value in mine] == present.tolist()
    np.testing.assert_allclose([v for v in mine if v is not None], each, atol=1e-9)


def test_calibrated_scores_are_those_of_divided_logits() -> None:
    logits, targets = np.random.default_rng(3).normal(size=(50, 4)), np.arange(50) % 4
    ours = evaluate(logits, targets, temperature=2.5)
    divided = evaluate(logits / 2.5, targets)
    for name in ("log_loss", "brier", "ece", "adaptive_ece", "aurc", "coverage", "reliability"):
        assert ours[name] == divided[name]
    plain = evaluate(logits, targets)
    assert ours["uncalibrated"]["ece"] == plain["ece"]
    assert ours["uncalibrated"]["log_loss"] == plain["log_loss"]
    assert ours["top1"] == plain["top1"]


def test_log_loss_of_a_sure_mistake_is_not_clipped() -> None:
    assert evaluate(np.array([[800.0, 0.0]]), np.array([1]))["log_loss"] == 800.0


def test_one_label_is_always_right_and_has_no_kappa() -> None:
    ours = evaluate(np.array([[0.3], [2.0]]), np.array([0, 0]))
    assert ours["top1"] == ours["top5"] == ours["balanced_accuracy"] == ours["macro_f1"] == 1.0
    assert ours["log_loss"] == ours["brier"] == ours["ece"] == ours["aurc"] == 0.0
    assert ours["kappa"] is None


def test_a_label_without_photos_has_no_recall_and_does_not_count_in_means() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [2.0, 3.0, 0.0]])
    ours = evaluate(logits, np.array([0, 0]))
    absent, never_predicted = ours["labels"]["label 01"], ours["labels"]["label 02"]
    assert absent["recall"] is None
    assert absent["recall_interval"] is None
    assert absent["precision"] == 0.0
    assert absent["f1"] == 0.0
    assert never_predicted["precision"] is None
    assert never_predicted["f1"] is None
    assert ours["balanced_accuracy"] == 0.5
    assert ours["macro_f1"] == pytest.approx((2 / 3 + 0.0) / 2, abs=1e-12)


def test_metrics_are_json_without_nan(case: Case) -> None:
    text = json.dumps(evaluate(*case), allow_nan=False)
    assert json.loads(text)["photos"] == len(case[1])


def test_intervals_hold_their_value_and_repeat_with_the_seed(case: Case) -> None:
    ours = evaluate(*case)
    low, high = ours["top1_interval"]
    assert 0 <= low <= ours["top1"] <= high <= 1
    for name in ("balanced_accuracy", "macro_f1"):
        low, high = ours[f"{name}_interval"]
        assert 0 <= low <= high <= 1
    assert evaluate(*case) == ours


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_half_precision_logits_are_computed_in_double(dtype: type[Any]) -> None:
    logits = np.array([[1.5, 0.25], [0.5, -1.0]], dtype=dtype)
    expected = np.mean([math.log1p(math.exp(-1.25)), math.log1p(math.exp(1.5))])
    assert evaluate(logits, np.array([0, 1]))["log_loss"] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_of_a_diverged_network_are_an_error(value: float) -> None:
    logits = np.zeros((3, 2))
    logits[1, 0] = value
    with pytest.raises(ModelError) as caught:
        evaluate(logits, np.array([0, 1, 0]))
    assert str(caught.value) == (
        "The network's predictions for 1 of 3 photos are not finite numbers: "
        "the training has diverged. Train again with a lower --lr."
    )


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "there are no photos to evaluate"),
        (np.zeros(3), np.zeros(3, int), r"scores must have the shape \(N, C\), not \(3,\)"),
        (np.zeros((3, 2)), np.zeros(2, int), r"3 rows of scores, but targets have shape \(2,\)"),
        (np.zeros((1, 2)), np.array([2]), r"targets must lie in 0\.\.1"),
        (np.zeros((1, 2)), np.array([-1]), r"targets must lie in 0\.\.1"),
        (np.zeros((1, 2)), np.array([0.0]), "targets must be integers, not float64"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    logits: NDArray[np.float64], targets: NDArray[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_logits(logits, targets, ["a", "b"])


def test_labels_must_name_every_column() -> None:
    with pytest.raises(ValueError, match="2 columns of logits, but 1 labels"):
        evaluate_logits([[0.0, 1.0]], [0], ["a"])


@pytest.mark.parametrize("decimals", [1, 8])
def test_average_precision_equals_scikit_learns(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    scores, positive = np.round(rng.random(150), decimals), rng.integers(0, 2, 150)
    expected = reference.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-9)


def test_average_precision_is_undefined_without_a_positive() -> None:
    assert average_precision([0.1, 0.4], [0, 0]) is None


@pytest.mark.parametrize("positive", [[1, 1, 1], [0, 1, 0]])
def test_average_precision_of_equal_scores_is_the_share_of_positives(positive: list[int]) -> None:
    assert average_precision([0.5, 0.5, 0.5], positive) == pytest.approx(np.mean(positive))


def test_resampled_average_precision_is_that_of_the_drawn_photos() -> None:
    rng = np.random.default_rng(2)
    scores, positive = np.round(rng.random(40), 1), rng.integers(0, 2, 40)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    ours = resampled_average_precision(scores, positive, drawn)
    for found, times in zip(ours, drawn, strict=True):
        again = np.repeat(np.arange(40), times)
        expected = reference.average_precision_score(positive[again], scores[again])
        assert found == pytest.approx(expected, abs=1e-12)


def test_resampled_average_precision_is_undefined_where_no_positive_was_drawn() -> None:
    found = resampled_average_precision([0.3, 0.7], [1, 0], [[0, 2], [1, 1]])
    assert np.isnan(found[0])
    assert found[1] == 0.5


def test_average_precision_of_a_perfect_ranking_is_no_more_than_one() -> None:
    for photos in range(1, 3_000, 37):
        scores = np.arange(photos, dtype=np.float64)[::-1]
        found = average_precision(scores, np.ones(photos))
        assert found is not None
        assert found <= 1.0
