from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from finetune.evaluation import influence
from finetune.evaluation.influence import group_influences


def test_influence_is_that_of_regressions_without_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    count, labels = 24, 3
    features = rng.normal(size=(count, 6))
    targets = rng.integers(0, labels, count)
    groups = np.r_[np.arange(14), [14] * 3, [15] * 2, [16] * 2, np.arange(17, 20)]
    monkeypatch.setattr(influence, "PENALTIES", (0.3,))
    found, scores = group_influences(features, targets, groups)
    centered = features - features.mean(axis=0)
    penalty = 0.3 * (centered**2).sum() / count
    wanted = np.eye(labels)[targets] - np.bincount(targets, minlength=labels) / count

    def held_out(without: list[int], group: int) -> NDArray[np.float64]:
        """Residuals of a group by a regression without it, and without others."""
        rows = ~np.isin(groups, [*without, group])
        model = Ridge(alpha=penalty, fit_intercept=True).fit(centered[rows], wanted[rows])
        found: NDArray[np.float64] = wanted[groups == group]
        found -= model.predict(centered[groups == group])
        return found

    numbers = np.unique(groups).tolist()
    errors = {group: (held_out([], group) ** 2).sum() for group in numbers}
    for group in numbers:
        others = [other for other in numbers if other != group]
        expected = sum(errors[other] - (held_out([group], other) ** 2).sum() for other in others)
        assert found[groups == group] == pytest.approx(expected, abs=1e-8)
        residuals = held_out([], group)
        np.testing.assert_allclose(
            scores[groups == group], np.eye(labels)[targets[groups == group]] - residuals
        )


def test_photos_with_a_wrong_label_harm_most() -> None:
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(4, 10)) * 1.5
    truth = np.repeat(np.arange(4), 40)
    features = centers[truth] + rng.normal(size=(160, 10))
    targets = truth.copy()
    wrong = rng.choice(160, 8, replace=False)
    targets[wrong] = (targets[wrong] + 1) % 4
    found, scores = group_influences(features, targets, np.arange(160))
    worst = np.argsort(-found)[:16]
    assert len(set(worst) & set(wrong)) >= 7
    assert found[wrong].mean() > 10 * np.delete(found, wrong).mean()
    assert (scores[wrong].argmax(axis=1) == truth[wrong]).mean() >= 0.8
