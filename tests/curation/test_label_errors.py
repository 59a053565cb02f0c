from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from finetune.curation import label_errors
from finetune.curation.embedding import Embedder
from finetune.curation.label_errors import confident_disagreements, find_label_errors
from finetune.demo_data import DemoCollection
from finetune.errors import ConfigError
from finetune.models.factory import LoadedModel
from finetune.photos.collection import Photo
from finetune.photos.scan import scan
from finetune.photos.split.split import fold_groups


def slow_disagreements(probabilities: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """Equation 1 of the paper, one photo at a time."""
    labels = range(probabilities.shape[1])
    threshold = [
        np.mean([p[j] for p, t in zip(probabilities, targets, strict=True) if t == j])
        for j in labels
    ]
    found = []
    for i, (p, t) in enumerate(zip(probabilities, targets, strict=True)):
        reached = [j for j in labels if p[j] >= threshold[j]]
        if reached:
            j = max(reached, key=lambda j: p[j])
            if j != t and p[j] > p[t]:
                found.append((p[j] - p[t], i, j))
    return [(i, j) for _, i, j in sorted(found, key=lambda item: (-item[0], item[1]))]


def test_disagreements_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(5, 0.5), 300)
    targets = np.array([rng.choice(5, p=p) for p in probabilities])
    found = confident_disagreements(probabilities, targets)
    assert found == slow_disagreements(probabilities, targets)
    assert len(found) > 10


def test_photos_without_a_verdict_and_labels_without_photos_are_passed_over() -> None:
    probabilities = np.array([[np.nan, np.nan, np.nan], [0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    # Label 0 is seen from 0.9 on, label 1 from 0.2 on; nothing bears label 2.
    assert confident_disagreements(probabilities, np.array([1, 0, 1])) == []
    probabilities[2] = [0.95, 0.05, 0.0]
    assert confident_disagreements(probabilities, np.array([1, 0, 1])) == [(2, 0)]


def blobs(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, count)
    centers = rng.normal(size=(4, 20)) * 2
    return (centers[truth] + rng.normal(size=(count, 20))).astype(np.float32), truth


def test_probabilities_are_out_of_sample_as_scikit_learn_gives_them(
    shrunk_scaler: Callable[[], Any],
) -> None:
    features, truth = blobs(2)
    labels = [f"l{t}" for t in truth]
    groups = [i // 2 for i in range(len(labels))]
    found = find_label_errors(features, labels, groups, folds=4, seed=5, l2=0.05)
    fold_of = np.array(fold_groups(labels, groups, folds=4, seed=5))
    for fold in range(4):
        train, held = fold_of != fold, fold_of == fold
        theirs = make_pipeline(
            shrunk_scaler(),
            LogisticRegression(C=1 / (train.sum() * 0.05), tol=1e-9, max_iter=3000),
        ).fit(features[train].astype(np.float64), np.array(labels)[train])
        expected = theirs.predict_proba(features[held].astype(np.float64))
        assert np.abs(found.probabilities[held] - expected).max() < 5e-3


def test_planted_errors_are_found_first() -> None:
    features, truth = blobs(3)
    planted = np.random.default_rng(4).choice(len(truth), 12, replace=False)
    given = truth.copy()
    given[planted] = (given[planted] + 1) % 4
    labels = [f"l{t}" for t in given]
    calls: list[tuple[int, int]] = []
    found = find_label_errors(
        features, labels, range(len(labels)), progress=lambda *done: calls.append(done)
    )
    shown = [error.position for error in found.errors]
    assert len(set(shown) & set(planted.tolist())) >= 9
    assert set(shown[:10]) <= set(planted.tolist())
    assert all(error.suggested == f"l{truth[error.position]}" for error in found.errors[:10])
    strengths = [error.strength for error in found.errors]
    assert strengths == sorted(strengths, reverse=True)
    assert calls == [(n, 5) for n in range(1, 6)]


def test_errors_are_found_by_heads_that_learn_a_share_of_many_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(label_errors, "MOST_LEARNED", 100)
    monkeypatch.setattr(label_errors, "LEAST_OF_LABEL", 10)
    monkeypatch.setattr(label_errors, "CHUNK", 64)
    features, truth = blobs(7, 600)
    planted = np.random.default_rng(8).choice(len(truth), 12, replace=False)
    given = truth.copy()
    given[planted] = (given[planted] + 1) % 4
    read: list[int] = []

    class Rows:
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            read.append(len(rows))
            chosen: np.ndarray = features[rows]
            return chosen

    found = find_label_errors(Rows(), [f"l{t}" for t in given], range(len(given)))
    # Each label's share is rounded up.
    assert max(read) <= 104
    assert not found.unchecked
    assert {error.position for error in found.errors[:8]} <= set(planted.tolist())


def test_a_label_of_one_group_is_not_checked() -> None:
    features, truth = blobs(5, 60)
    labels = [f"l{t}" for t in truth]
    labels[:3] = ["rare"] * 3
    groups = ["burst"] * 3 + [str(i) for i in range(3, 60)]
    found = find_label_errors(features, labels, groups)
    assert found.unchecked == (0, 1, 2)
    assert not {error.position for error in found.errors} & {0, 1, 2}


def test_folds_that_cannot_be_made_are_an_error() -> None:
    features, _ = blobs(6, 6)
    with pytest.raises(ConfigError) as caught:
        find_label_errors(features, ["a", "a", "a", "b", "b", "b"], [0, 0, 0, 1, 1, 1])
    assert str(caught.value) == (
        "--folds 5 cannot be made: no label has two groups of photos. "
        "Add photos, or use --group-by none."
    )


def test_planted_errors_among_drawn_birds_are_found(
    demo_collection: DemoCollection,
    backbone: LoadedModel,
    at_their_birds: Callable[..., list[Photo]],
) -> None:
    collection = scan(demo_collection.folder)
    photos = at_their_birds(demo_collection, collection.photos)
    features = Embedder(backbone).embed(demo_collection.folder, photos).features
    truth = [photo.labels[0] for photo in photos]
    names = sorted(set(truth))
    given = list(truth)
    planted = [1, 13]
    for i in planted:
        given[i] = names[(names.index(truth[i]) + 2) % len(names)]
    found = find_label_errors(features, given, range(len(given)))
    assert {error.position for error in found.errors} >= set(planted)
    assert len(found.errors) <= 8
