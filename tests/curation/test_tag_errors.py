from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.curation.label_errors import find_tag_errors
from finetune.errors import ConfigError
from finetune.photos.split.folds import fold_groups

NAMES = np.array(["bee", "flower", "leaf"])


def scenes(seed: int, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Features in which each label, by itself, adds a direction of its own."""
    rng = np.random.default_rng(seed)
    borne = rng.random((count, 3)) < (0.5, 0.3, 0.2)
    directions = rng.normal(size=(3, 24)) * 1.5
    return (borne @ directions + rng.normal(size=(count, 24))).astype(np.float32), borne


def labels_of(borne: np.ndarray) -> list[tuple[str, ...]]:
    return [tuple(NAMES[row].tolist()) for row in borne]


def slow_doubts(borne: np.ndarray, probabilities: np.ndarray) -> set[tuple[int, str]]:
    """Equation 1 of the paper for the two answers to each label's question, a photo at a time."""
    found = set()
    for k, name in enumerate(NAMES):
        has, p = borne[:, k], probabilities[:, k]
        there, absent = p[has].mean(), (1 - p[~has]).mean()
        for i in range(len(p)):
            contrary = p[i] < 0.5 if has[i] else p[i] > 0.5
            reached = 1 - p[i] >= absent if has[i] else p[i] >= there
            if contrary and reached:
                found.add((i, str(name)))
    return found


def test_probabilities_are_out_of_sample_as_scikit_learn_gives_them() -> None:
    features, borne = scenes(2)
    labels = labels_of(borne)
    groups = [i // 2 for i in range(len(labels))]
    found = find_tag_errors(features, labels, groups, folds=4, seed=5, l2=0.05)
    assert found.labels == tuple(NAMES)
    fold_of = np.array(fold_groups(labels, groups, folds=4, seed=5))
    for fold in range(4):
        train, held = fold_of != fold, fold_of == fold
        for k in range(3):
            theirs = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=1 / (train.sum() * 0.05), tol=1e-9, max_iter=3000),
            ).fit(features[train].astype(np.float64), borne[train, k])
            expected = theirs.predict_proba(features[held].astype(np.float64))[:, 1]
            assert np.abs(found.probabilities[held, k] - expected).max() < 5e-3
    doubts = {(doubt.position, doubt.label) for doubt in found.doubts}
    assert doubts == slow_doubts(borne, found.probabilities)


def test_planted_gaps_and_excesses_are_found_first() -> None:
    features, truth = scenes(3)
    rng = np.random.default_rng(4)
    planted = {(int(i), int(rng.integers(3))) for i in rng.choice(len(truth), 14, replace=False)}
    given = truth.copy()
    for i, k in planted:
        given[i, k] = not given[i, k]
    calls: list[tuple[int, int]] = []
    found = find_tag_errors(
        features, labels_of(given), range(len(given)), progress=lambda *done: calls.append(done)
    )
    pairs = [(doubt.position, NAMES.tolist().index(doubt.label)) for doubt in found.doubts]
    assert len(set(pairs) & planted) >= len(planted) / 2
    assert set(pairs[:8]) <= planted
    for doubt, (i, k) in zip(found.doubts, pairs, strict=True):
        assert doubt.borne == given[i, k]
        assert doubt.probability == found.probabilities[i, k]
        assert (doubt.probability < 0.5) == doubt.borne
    strengths = [doubt.strength for doubt in found.doubts]
    assert strengths == sorted(strengths, reverse=True)
    assert calls == [(n, 5) for n in range(1, 6)]


def test_a_label_of_one_group_and_one_that_every_photo_has_are_not_asked_about() -> None:
    features, borne = scenes(5, 80)
    labels = [(*own, "everywhere") for own in labels_of(borne)]
    labels[:3] = [(*own, "rare") for own in labels[:3]]
    groups = ["burst"] * 3 + [str(i) for i in range(3, 80)]
    found = find_tag_errors(features, labels, groups)
    column = dict(zip(found.labels, found.probabilities.T, strict=True))
    assert np.isnan(found.probabilities[:3]).all()
    assert np.isnan(column["everywhere"]).all()
    assert np.isfinite(column["rare"][3:]).all()
    assert np.isfinite(column["bee"][3:]).all()
    assert not {doubt.label for doubt in found.doubts} & {"everywhere", "rare"}


def test_photos_without_any_label_are_asked_about_too() -> None:
    features, borne = scenes(6)
    bare = int(np.flatnonzero(borne[:, 0] & ~borne[:, 1] & ~borne[:, 2])[0])
    given = borne.copy()
    given[bare] = False
    found = find_tag_errors(features, labels_of(given), range(len(given)))
    assert (bare, "bee", False) in {(d.position, d.label, d.borne) for d in found.doubts}


def test_folds_that_cannot_be_made_are_an_error() -> None:
    features, borne = scenes(7, 6)
    with pytest.raises(ConfigError, match="--folds 1 must be at least 2"):
        find_tag_errors(features, labels_of(borne), range(6), folds=1)
