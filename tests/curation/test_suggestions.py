from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from finetune.curation import suggestions
from finetune.curation.suggestions import (
    neighbor_probabilities,
    select_next,
    uncertainty,
)


def unit(array: np.ndarray) -> np.ndarray:
    rows: np.ndarray = array / np.linalg.norm(array, axis=1, keepdims=True)
    return rows


@pytest.mark.parametrize("chunk", [7, 2048])
def test_neighbors_vote_as_in_scikit_learn(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "CHUNK", chunk)
    rng = np.random.default_rng(4)
    known, targets = rng.normal(size=(60, 16)), np.tile(np.arange(4), 15)
    asked = rng.normal(size=(25, 16))
    cosines = unit(asked) @ unit(known).T

    def votes(distances: np.ndarray) -> np.ndarray:
        # On the unit sphere |a - b|^2 = 2 - 2 cos.
        near = 1 - distances**2 / 2
        weights: np.ndarray = np.exp((near - near.max(axis=1, keepdims=True)) / 0.07)
        return weights

    theirs = KNeighborsClassifier(10, weights=votes).fit(unit(known), targets)
    shares = theirs.predict_proba(unit(asked))
    nearest = np.sort(cosines, axis=1)[:, :-11:-1]
    mass = np.exp((nearest - nearest[:, :1]) / 0.07).sum(axis=1, keepdims=True)
    expected = (shares * mass + 0.5 / 4) / (mass + 0.5)
    found = neighbor_probabilities(
        asked.astype(np.float32), known.astype(np.float32), targets, labels=4
    )
    assert np.allclose(found, expected, atol=1e-5)


def test_nothing_labeled_says_nothing() -> None:
    empty = np.empty((0, 3), np.float32)
    found = neighbor_probabilities(np.ones((2, 3), np.float32), empty, np.empty(0, int), 4)
    assert np.array_equal(found, np.full((2, 4), 0.25))


def test_one_labeled_photo_convinces_nobody() -> None:
    one = np.array([[1.0, 0.0]], np.float32)
    found = neighbor_probabilities(one, one, np.array([1]), labels=2)
    assert np.allclose(found, [[0.25 / 1.5, 1.25 / 1.5]])


def test_uncertainty_is_one_less_the_margin() -> None:
    table = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert np.allclose(uncertainty(table), [0.5, 1.0, 0.0])
    assert np.array_equal(uncertainty(np.ones((3, 1))), np.ones(3))


def slow_order(
    probabilities: np.ndarray, features: np.ndarray, known: np.ndarray, count: int
) -> list[int]:
    """The rule written out, one photo at a time, in float64."""
    rows, centers = unit(features), list(unit(known)) if len(known) else []
    chosen: list[int] = []
    for _ in range(count):
        best, place = -1.0, -1
        for i, row in enumerate(rows):
            if i in chosen:
                continue
            top = sorted(probabilities[i])[::-1]
            near = min([1 - row @ c for c in centers], default=2.0)
            score = max(1 - (top[0] - top[1]), 1e-3) * max(near, 0)
            if score > best:
                best, place = score, i
        chosen.append(place)
        centers.append(rows[place])
    return chosen


@pytest.mark.parametrize("known", [0, 6])
def test_next_to_ask_follows_the_rule(known: int) -> None:
    rng = np.random.default_rng(5)
    features, labeled = rng.normal(size=(40, 5)), rng.normal(size=(known, 5))
    probabilities = rng.dirichlet(np.ones(4), 40)
    found = select_next(
        probabilities, features.astype(np.float32), labeled.astype(np.float32), count=12
    )
    assert found == slow_order(probabilities, features, labeled, 12)


def test_a_burst_is_asked_about_once() -> None:
    rng = np.random.default_rng(6)
    scenes = rng.normal(size=(5, 30))
    features = np.repeat(scenes, 8, axis=0) + rng.normal(scale=0.01, size=(40, 30))
    toss_up = np.full((40, 2), 0.5)
    asked = select_next(toss_up, features.astype(np.float32), count=5)
    assert sorted(i // 8 for i in asked) == [0, 1, 2, 3, 4]


def test_at_most_all_photos_are_taken() -> None:
    asked = select_next(np.full((3, 2), 0.5), np.eye(3, dtype=np.float32), count=10)
    assert sorted(asked) == [0, 1, 2]
