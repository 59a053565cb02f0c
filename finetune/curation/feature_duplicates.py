"""Near-duplicates by features: crops, color changes and screenshots that hashes miss.

Two photos are paired if each is among the other's nearest neighbors and they are much more alike
than photos around them are: a crop lies close to its photo even where all photos of a species lie
close together. Features are those of a pretrained backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.curation.embedding import embed, unit_rows
from finetune.formatting import count
from finetune.photos.collection import Collection, Photo, Problem
from finetune.photos.near_duplicates.groups import NearDuplicateGroup

_BLOCK_NUMBERS = 1 << 25
"""Similarities computed at once: 128 MB."""


@dataclass(frozen=True, kw_only=True)
class FeatureRule:
    """Rule by which photos count as near-duplicates by their features.

    The defaults are measured: see `benchmarks/feature_duplicates.py`.

    Attributes:
        min_similarity: Minimum cosine of two photos, after the mean of all was subtracted.
        mutual: A photo must be among this many nearest neighbors of the other, and the reverse.
        surroundings: Number of the neighbor, from 1, whose distance stands for the photos around.
        max_ratio: Maximum distance (1 - cosine) of a pair as a share of that to the surroundings.
    """

    min_similarity: float = 0.5
    mutual: int = 6
    surroundings: int = 10
    max_ratio: float = 0.6


@dataclass(frozen=True, kw_only=True)
class FeaturePairs:
    """Pairs of near-duplicates by features.

    Attributes:
        pairs: ``(K, 2)`` indices of photos, the smaller first, in ascending order.
        similarities: ``(K,)`` cosines.
        nearest_apart: Indices of the most similar pair of photos that is none of these; None where
            no neighbors are left.
        similarity_apart: Its cosine.
    """

    pairs: NDArray[np.int64]
    similarities: NDArray[np.float32]
    nearest_apart: tuple[int, int] | None = None
    similarity_apart: float = 0.0


def nearest_neighbors(
    features: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the nearest neighbors of each row by cosine, the nearest first, without itself.

    The mean of all rows is subtracted before. Every pair is compared.

    Args:
        features: ``(N, F)``.
        count: Number of neighbors K; fewer where there are fewer rows.

    Returns:
        Indices ``(N, K)`` and cosines ``(N, K)``.
    """
    total = len(features)
    count = min(count, max(total - 1, 0))
    units = unit_rows(features - features.mean(axis=0)) if total else features
    found = np.empty((total, count), np.int64)
    cosines = np.empty((total, count), np.float32)
    step = max(1, _BLOCK_NUMBERS // max(total, 1))
    for start in range(0, total if count else 0, step):
        rows = np.arange(start, min(start + step, total))
        block = units[rows] @ units.T
        block[np.arange(len(rows)), rows] = -np.inf
        best = np.argpartition(-block, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
        cosines[rows] = np.take_along_axis(values, order, axis=1)
    return found, cosines


def find_pairs(features: NDArray[np.float32], rule: FeatureRule | None = None) -> FeaturePairs:
    """Returns the near-duplicates among photos.

    Args:
        features: ``(N, F)``.
        rule: Limits.
    """
    rule = rule or FeatureRule()
    found, cosines = nearest_neighbors(features, max(rule.surroundings, rule.mutual))
    if not found.size:
        return FeaturePairs(pairs=np.empty((0, 2), np.int64), similarities=np.empty(0, np.float32))
    near = found[:, : rule.mutual]
    first = np.repeat(np.arange(len(found)), near.shape[1])
    second = near.reshape(-1)
    values = cosines[:, : rule.mutual].reshape(-1)
    mutual = (near[second] == first[:, None]).any(axis=1)
    around = 1 - cosines[:, min(rule.surroundings, cosines.shape[1]) - 1]
    # Photos in a dense region, such as one species, have close neighbors; the denser end counts.
    allowed = np.minimum(around[first], around[second]) * rule.max_ratio
    is_pair = mutual & (values >= rule.min_similarity) & (1 - values <= allowed)
    apart = np.flatnonzero(~is_pair)
    pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)[is_pair]
    unique, places = np.unique(pairs, axis=0, return_index=True)
    nearest = int(apart[np.argmax(values[apart])]) if len(apart) else None
    return FeaturePairs(
        pairs=unique,
        similarities=values[is_pair][places],
        nearest_apart=None if nearest is None else (int(first[nearest]), int(second[nearest])),
        similarity_apart=0.0 if nearest is None else float(values[nearest]),
    )


@dataclass(frozen=True, kw_only=True)
class FeaturePair:
    """Two photos that are near-duplicates by their features.

    Attributes:
        photos: Both.
        similarity: Their cosine, in [-1, 1].
    """

    photos: tuple[Photo, Photo]
    similarity: float


@dataclass(frozen=True, kw_only=True)
class FeatureDuplicates:
    """Near-duplicates by features that hashes do not find.

    Attributes:
        pairs: The most similar first.
        proof: Sentence with their number, how many have different labels, and the most similar
            pair that was left apart.
        problems: Photos that could not be opened.
    """

    pairs: tuple[FeaturePair, ...]
    proof: str
    problems: tuple[Problem, ...] = ()


def find_feature_duplicates(
    collection: Collection,
    groups: Sequence[NearDuplicateGroup],
    *,
    catalog: Path | None = None,
    rule: FeatureRule | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureDuplicates:
    """Returns the near-duplicates by features that are in no group together.

    Args:
        collection: The photos.
        groups: Their near-duplicate groups by hashes.
        catalog: Catalog of the collection, as in `scan`.
        rule: Limits.
        progress: Called as ``progress(done, total)`` for photos whose features are not cached.

    Raises:
        ModelError: The backbone cannot be loaded.
    """
    # One photo of each group stands for all: the others are near-duplicates of it anyway.
    group_of = {item.photo.path: group.best.path for group in groups for item in group.photos}
    single = [one for one in collection.photos if group_of.get(one.path, one.path) == one.path]
    found = embed(collection.root, single, catalog=catalog, progress=progress)
    chosen = find_pairs(found.features, rule)
    order = np.argsort(-chosen.similarities, kind="stable").tolist()
    pairs = tuple(
        FeaturePair(
            photos=(found.photos[chosen.pairs[i, 0]], found.photos[chosen.pairs[i, 1]]),
            similarity=float(chosen.similarities[i]),
        )
        for i in order
    )
    different = sum(len({one.labels for one in pair.photos if one.labels}) > 1 for pair in pairs)
    proof = f"By features: {count(len(pairs), 'further pair')}, {different:,} of different labels."
    if chosen.nearest_apart is not None:
        one, other = (found.photos[index].path for index in chosen.nearest_apart)
        proof += (
            f" The most similar pair left apart: {one} and {other}, cosine "
            f"{chosen.similarity_apart:.3f}."
        )
    return FeatureDuplicates(pairs=pairs, proof=proof, problems=found.problems)
