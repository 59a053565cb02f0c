from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from finetune.errors import ModelError
from finetune.evaluation.ranking import average_precision, evaluate_multilabel


@pytest.mark.parametrize("decimals", [1, 8])
def test_average_precision_equals_scikit_learns(decimals):
    rng = np.random.default_rng(decimals)
    scores, positive = np.round(rng.random(150), decimals), rng.integers(0, 2, 150)
    expected = reference.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-9)


def test_average_precision_is_undefined_without_a_positive():
    assert average_precision([0.1, 0.4], [0, 0]) is None


@pytest.mark.parametrize("positive", [[1, 1, 1], [0, 1, 0]])
def test_average_precision_of_equal_scores_is_the_share_of_positives(positive):
    assert average_precision([0.5, 0.5, 0.5], positive) == pytest.approx(np.mean(positive))


def _reference(truth, scores, said):
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
            "exact_match": reference.accuracy_score(truth, said),
            "macro_f1": reference.f1_score(truth, said, average="macro", zero_division=np.nan),
            "micro_f1": reference.f1_score(truth, said, average="micro", zero_division=np.nan),
        }


@pytest.mark.parametrize("absent", [False, True])
def test_multilabel_metrics_equal_scikit_learns(absent):
    rng = np.random.default_rng(4)
    truth = rng.random((120, 6)) < 0.3
    logits = rng.normal(size=(120, 6)) + 2 * truth - 1
    if absent:
        truth[:, 2] = False
        logits[:, 2] = -5
    ours = evaluate_multilabel(logits, truth, list("abcdef"))
    for name, value in _reference(truth.astype(int), logits, (logits >= 0).astype(int)).items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    precision, recall, _, photos = reference.precision_recall_fscore_support(
        truth, logits >= 0, zero_division=np.nan
    )
    for c, label in enumerate("abcdef"):
        mine = ours["labels"][label]
        assert mine["photos"] == photos[c]
        assert (mine["precision"] is None) == np.isnan(precision[c])
        assert (mine["recall"] is None) == np.isnan(recall[c])
        if mine["recall"] is not None:
            assert mine["recall"] == pytest.approx(recall[c], abs=1e-9)


def test_multilabel_metrics_of_nothing_said_and_nothing_there_are_undefined():
    ours = evaluate_multilabel([[-1.0, -2.0]], [[0, 0]], ["a", "b"])
    assert ours["exact_match"] == 1.0
    assert ours["mean_average_precision"] is None
    assert ours["micro_average_precision"] is None
    assert ours["macro_f1"] is None
    assert ours["micro_f1"] is None
    json.dumps(ours, allow_nan=False)


def test_multilabel_threshold_is_a_probability():
    logit = np.log(0.8 / 0.2)
    at = evaluate_multilabel([[logit - 1e-6], [logit + 1e-6]], [[1], [1]], ["a"], threshold=0.8)
    assert at["labels"]["a"]["predicted"] == 1


def test_multilabel_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits \(1, 2\) and truth \(1, 1\) do not fit"):
        evaluate_multilabel([[0.0, 1.0]], [[0]], ["a", "b"])
    with pytest.raises(ValueError, match="2 columns of logits, but 1 labels"):
        evaluate_multilabel([[0.0, 1.0]], [[0, 1]], ["a"])
    with pytest.raises(ModelError, match="for 1 of 1 photos are not finite"):
        evaluate_multilabel([[np.nan, 1.0]], [[0, 1]], ["a", "b"])
