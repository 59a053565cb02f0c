from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from finetune.curation.label_errors import find_multi_label_errors
from finetune.errors import ConfigError
from finetune.photos.split.split import fold_groups

NAMES = np.array(["bee", "flower", "leaf"])


def scenes(seed: int, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Features in which each label, by itself, adds a direction of its own."""
    rng = np.random.default_rng(seed)
    present = rng.random((count, 3)) < (0.5, 0.3, 0.2)
    directions = rng.normal(size=(3, 24)) * 1.5
    return (present @ directions + rng.normal(size=(count, 24))).astype(np.float32), present


def labels_of(present: np.ndarray) -> list[tuple[str, ...]]:
    return [tuple(NAMES[row].tolist()) for row in present]


def slow_errors(present: np.ndarray, probabilities: np.ndarray) -> set[tuple[int, str]]:
    """Equation 1 of the paper for the two answers to each label's question, a photo at a time."""
    found = set()
    for k, name in enumerate(NAMES):
        has, p = present[:, k], probabilities[:, k]
        there, absent = p[has].mean(), (1 - p[~has]).mean()
        for i in range(len(p)):
            contrary = p[i] < 0.5 if has[i] else p[i] > 0.5
            reached = 1 - p[i] >= absent if has[i] else p[i] >= there
            if contrary and reached:
                found.add((i, str(name)))
    return found


def test_probabilities_are_out_of_sample_as_scikit_learn_gives_them(
    shrunk_scaler: Callable[[], Any],
) -> None:
    features, present = scenes(2)
    labels = labels_of(present)
    groups = [i // 2 for i in range(len(labels))]
    found = find_multi_label_errors(features, labels, groups, folds=4, seed=5, l2=0.05)
    assert found.labels == tuple(NAMES)
    fold_of = np.array(fold_groups(labels, groups, folds=4, seed=5))
    for fold in range(4):
        train, held = fold_of != fold, fold_of == fold
        for k in range(3):
            theirs = make_pipeline(
                shrunk_scaler(),
                LogisticRegression(C=1 / (train.sum() * 0.05), tol=1e-9, max_iter=3000),
            ).fit(features[train].astype(np.float64), present[train, k])
            expected = theirs.predict_proba(features[held].astype(np.float64))[:, 1]
            assert np.abs(found.probabilities[held, k] - expected).max() < 5e-3
    errors = {(error.position, str(error.label or error.suggested)) for error in found.errors}
    assert errors == slow_errors(present, found.probabilities)


def test_planted_gaps_and_excesses_are_found_first() -> None:
    features, truth = scenes(3)
    rng = np.random.default_rng(4)
    planted = {(int(i), int(rng.integers(3))) for i in rng.choice(len(truth), 14, replace=False)}
    given = truth.copy()
    for i, k in planted:
        given[i, k] = not given[i, k]
    calls: list[tuple[int, int]] = []
    found = find_multi_label_errors(
        features, labels_of(given), range(len(given)), progress=lambda *done: calls.append(done)
    )
    columns = {name: k for k, name in enumerate(found.labels)}
    pairs = [(e.position, columns[e.label or e.suggested or ""]) for e in found.errors]
    assert len(set(pairs) & planted) >= len(planted) / 2
    assert set(pairs[:8]) <= planted
    for error, (i, k) in zip(found.errors, pairs, strict=True):
        assert (error.label is not None) == given[i, k]
        p = found.probabilities[i, k]
        assert error.probability == (1 - p if given[i, k] else p) > 0.5
        assert np.isclose(error.strength, abs(2 * p - 1))
    strengths = [error.strength for error in found.errors]
    assert strengths == sorted(strengths, reverse=True)
    assert calls == [(n, 5) for n in range(1, 6)]


def test_a_label_of_one_group_and_one_that_every_photo_has_have_no_probability() -> None:
    features, present = scenes(5, 80)
    labels = [(*own, "everywhere") for own in labels_of(present)]
    labels[:3] = [(*own, "rare") for own in labels[:3]]
    groups = ["burst"] * 3 + [str(i) for i in range(3, 80)]
    found = find_multi_label_errors(features, labels, groups)
    column = dict(zip(found.labels, found.probabilities.T, strict=True))
    assert np.isnan(found.probabilities[:3]).all()
    assert np.isnan(column["everywhere"]).all()
    assert np.isfinite(column["rare"][3:]).all()
    assert np.isfinite(column["bee"][3:]).all()
    assert not {error.label or error.suggested for error in found.errors} & {"everywhere", "rare"}


def test_photos_without_any_label_are_checked_too() -> None:
    features, present = scenes(6)
    bare = int(np.flatnonzero(present[:, 0] & ~present[:, 1] & ~present[:, 2])[0])
    given = present.copy()
    given[bare] = False
    found = find_multi_label_errors(features, labels_of(given), range(len(given)))
    assert (bare, None, "bee") in {(e.position, e.label, e.suggested) for e in found.errors}


def test_folds_that_cannot_be_made_are_an_error() -> None:
    features, present = scenes(7, 6)
    with pytest.raises(ConfigError, match="--folds 1 must be at least 2"):
        find_multi_label_errors(features, labels_of(present), range(6), folds=1)
