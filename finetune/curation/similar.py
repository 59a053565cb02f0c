"""Similarity search: photos of a pool that resemble a few seeds."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.curation.embedding import DEFAULT_BACKBONE, Embedder, load_backbone, unit_rows
from finetune.errors import CollectionError, DecodeError, StorageError
from finetune.files import numbered, safe_name, storage_errors
from finetune.photos.analyze import digest_of
from finetune.photos.collection import Collection, Problem, hash_array
from finetune.photos.members import read_bytes
from finetune.photos.near_duplicates.hashing import hash_photo
from finetune.processes import ALONE, Team

By = Literal["features", "hash"]
Like = Literal["all", "any"]
"""Compare with the mean of the seeds, or with the nearest seed."""

HASH_BITS = 64


@dataclass(frozen=True, kw_only=True)
class Match:
    """Pool photo similar to the seeds.

    Attributes:
        position: Index of the photo in the pool.
        similarity: Cosine in [-1, 1] by features, share of equal bits in [0, 1] by hash.
        seed: Index of the nearest seed.
    """

    position: int
    similarity: float
    seed: int


def feature_similarities(
    seeds: NDArray[np.float32], pool: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns cosine similarities of features between pool photos and seeds.

    The pool's mean is subtracted from both first, or average photos would resemble every seed.
    1 is the same photo; 0 is the similarity of any two photos.

    Args:
        seeds: ``(S, F)``.
        pool: ``(N, F)``.

    Returns:
        ``(N, S) float32`` in [-1, 1]; 0 for a photo equal to the mean.
    """
    if not len(pool):
        return np.zeros((0, len(seeds)), np.float32)
    mean = pool.mean(axis=0)
    cosines: NDArray[np.float32] = unit_rows(pool - mean) @ unit_rows(seeds - mean).T
    return cosines


def hash_similarities(seeds: NDArray[np.uint64], pool: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Returns the share of equal bits between the hash of each pool photo and each seed.

    Args:
        seeds: ``(S,)`` hashes.
        pool: ``(N,)`` hashes of the same kind.

    Returns:
        ``(N, S) float32`` in [0, 1]: ``1 - Hamming distance / 64``.
    """
    bits = np.bitwise_count(pool[:, None] ^ seeds[None, :])
    shares: NDArray[np.float32] = 1 - bits.astype(np.float32) / HASH_BITS
    return shares


def rank(
    similarities: NDArray[np.float32],
    *,
    like: Like = "all",
    top: int | None = None,
    min_similarity: float | None = None,
    exclude: Sequence[int] = (),
) -> list[Match]:
    """Returns the photos of a pool, the most similar first; ties keep the pool's order.

    Args:
        similarities: ``(N, S)`` between photos and seeds.
        like: ``all`` ranks by the mean over the seeds, ``any`` by the nearest seed.
        top: Maximum number of photos; None: no limit.
        min_similarity: Minimum similarity; None: no limit.
        exclude: Positions to leave out, such as those of the seeds.
    """
    if not similarities.size:
        return []
    scores = similarities.mean(axis=1) if like == "all" else similarities.max(axis=1)
    nearest = similarities.argmax(axis=1)
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isin(order, np.asarray(exclude, dtype=np.int64))]
    if min_similarity is not None:
        order = order[scores[order] >= min_similarity]
    return [
        Match(position=int(i), similarity=float(scores[i]), seed=int(nearest[i]))
        for i in order[:top]
    ]


@dataclass(frozen=True, kw_only=True)
class Query:
    """Similarity query.

    Attributes:
        by: ``features`` of a backbone (subject and mood), or ``hash``: average hash (composition:
            bright and dark areas).
        like: ``all`` ranks by the mean over the seeds, ``any`` by the nearest one.
        top: Maximum number of photos; None: no limit.
        min_similarity: Minimum similarity; None: no limit.
        model: Name of the backbone.
        weights: Weights file; None: the model's own weights.
    """

    by: By = "features"
    like: Like = "all"
    top: int | None = 50
    min_similarity: float | None = None
    model: str = DEFAULT_BACKBONE
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Similar photos found.

    Attributes:
        matches: The most similar first; positions in the pool's photos, and in `seeds`.
        seeds: Seeds that could be opened.
        problems: Seeds and photos of the pool that could not be opened.
    """

    matches: tuple[Match, ...]
    seeds: tuple[Path, ...]
    problems: tuple[Problem, ...]


def find_similar(
    seeds: Sequence[Path],
    pool: Collection,
    query: Query,
    *,
    catalog: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> Similar:
    """Returns the pool photos similar to the seeds, without the seeds themselves.

    Args:
        seeds: Photos from the pool or elsewhere.
        pool: Collection to search.
        query: Kind of similarity and number of matches.
        catalog: Catalog of the pool, as in `scan`.
        progress: Called as ``progress(done, total)`` for photos of the pool.
        team: Processes that share the pool's features.

    Raises:
        CollectionError: No seed can be opened.
        ModelError: Unknown model, or weights that do not fit.
        WeightsUnavailable: The weights are neither on disk nor can be downloaded.
    """
    digests, contents, problems = set(), [], []
    for path in seeds:
        try:
            digests.add(digest_of(read_bytes(path)))
            contents.append(path)
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            problems.append(Problem(path=str(path), reason=reason))
    if query.by == "hash":
        good, similarities, places = _by_hash(contents, pool, problems)
    else:
        good, similarities, places = _by_features(
            contents, pool, query, problems, catalog=catalog, progress=progress, team=team
        )
    if not good:
        first = problems[0]
        count = f"None of the {len(problems)} seeds" if len(problems) > 1 else "The seed cannot"
        verb = "can" if len(problems) > 1 else ""
        raise CollectionError(
            f"{count} {verb}".rstrip()
            + f" be opened: {first.path}: {first.reason}. Choose photos that other programs open."
        )
    exclude = [i for i, place in enumerate(places) if pool.photos[place].digest in digests]
    matches = rank(
        similarities,
        like=query.like,
        top=query.top,
        min_similarity=query.min_similarity,
        exclude=exclude,
    )
    return Similar(
        matches=tuple(
            Match(position=int(places[m.position]), similarity=m.similarity, seed=m.seed)
            for m in matches
        ),
        seeds=tuple(good),
        problems=tuple(problems),
    )


def _by_hash(
    seeds: Sequence[Path], pool: Collection, problems: list[Problem]
) -> tuple[list[Path], NDArray[np.float32], NDArray[np.int64]]:
    good, hashes = [], []
    for path in seeds:
        try:
            hashes.append(hash_photo(path).average)
            good.append(path)
        except DecodeError as error:
            problems.append(Problem(path=str(path), reason=error.reason))
    places = [i for i, photo in enumerate(pool.photos) if photo.packed_hashes is not None]
    pool_hashes = hash_array([pool.photos[i] for i in places], "average")
    similarities = hash_similarities(np.array(hashes, np.uint64), pool_hashes)
    return good, similarities, np.array(places, np.int64)


def _by_features(
    seeds: Sequence[Path],
    pool: Collection,
    query: Query,
    problems: list[Problem],
    *,
    catalog: Path | None,
    progress: Callable[[int, int], None] | None,
    team: Team,
) -> tuple[list[Path], NDArray[np.float32], NDArray[np.int64]]:
    embedder = Embedder(load_backbone(query.model, query.weights))
    chosen = embedder.embed_files(seeds)
    problems.extend(chosen.problems)
    if not chosen.paths:
        return [], np.empty((0, 0), np.float32), np.empty(0, np.int64)
    found = embedder.embed(pool.root, pool.photos, catalog=catalog, progress=progress, team=team)
    problems.extend(found.problems)
    similarities = feature_similarities(chosen.features, found.features)
    return list(chosen.paths), similarities, found.positions


Link = Literal["copy", "hardlink", "symlink"]


def gather(
    sources: Sequence[Path],
    folder: Path,
    *,
    link: Link = "copy",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Copies or links photos into a new folder under their own names.

    Args:
        sources: The photos in order; they are not changed.
        folder: A new or empty folder.
        link: ``copy``, ``hardlink`` or ``symlink``.
        progress: Called as ``progress(done, total)``.

    Returns:
        The files made, in the order of the sources; of two photos of one name, the second is
        numbered.

    Raises:
        CollectionError: The folder is not empty.
        StorageError: A file could not be copied or linked; earlier ones remain.
    """
    _check_empty(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made = []
    taken: set[str] = set()
    for number, source in enumerate(sources, start=1):
        name = free = safe_name(source.name)
        copies = 2
        while free.casefold() in taken:
            free = numbered(name, copies)
            copies += 1
        taken.add(free.casefold())
        target = folder / free
        _place(source, target, link)
        made.append(target)
        if progress is not None:
            progress(number, len(sources))
    return made


def check_target(folder: Path, pool: Path) -> None:
    """Checks that photos of `pool` can be gathered in `folder`.

    Raises:
        CollectionError: The folder is not empty, or lies inside the pool.
    """
    if folder.resolve().is_relative_to(pool.resolve()):
        raise CollectionError(
            f"--to {folder} lies inside {pool}, where the next search would find the photos again. "
            "Choose a folder outside of it."
        )
    _check_empty(folder)


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} is not an empty folder. Choose a new one; nothing is lost."
        )


def _place(source: Path, target: Path, link: Link) -> None:
    with storage_errors(target):
        match link:
            case "copy":
                shutil.copy2(source, target)
            case "symlink":
                target.symlink_to(source.resolve())
            case "hardlink":
                try:
                    os.link(source.resolve(), target)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    raise StorageError(
                        f"{target} cannot be a hard link: it is on another disk than {source}. "
                        "Use --link symlink, or --link copy."
                    ) from error
