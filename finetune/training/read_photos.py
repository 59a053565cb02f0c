"""Reads a run's photos: what a scan finds of them, and the squares that the network learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.config import TrainConfig
from finetune.curation.crop_policy import PolicySpec, remembered_policy
from finetune.data.pixel_cache import PixelCache
from finetune.photos.collection import Collection
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.scan import scan
from finetune.training.events import Callback, Note, Progressed

SQUARES_NOTE = (
    "Most photos have a square around their subject; the run learns from these, and its "
    "predictions look for the subject in the same way."
)


def pixel_cache(cache_dir: Path, preprocessing: Preprocessing, config: TrainConfig) -> PixelCache:
    """Returns the cache of a collection's working squares."""
    return PixelCache(cache_dir, preprocessing, limit_gb=config.pixels.cache_gb)


def read_photos(
    root: Path, config: TrainConfig, cache: PixelCache, callback: Callback
) -> Collection:
    """Returns what a scan of `root` finds; files that are no usable photos are said aloud."""
    collection = scan(
        root,
        catalog=config.collection.catalog,
        progress=lambda done, total: callback(
            Progressed(stage="Reading photos", done=done, total=total)
        ),
        sink=cache,
    )
    if collection.problems:
        first = collection.problems[0]
        count = len(collection.problems)
        what = (
            "1 file is no usable photo" if count == 1 else f"{count:,} files are no usable photos"
        )
        callback(
            Note(
                text=f"{what} and left out: {first.path} ({first.reason})"
                + (", ... See them all with: finetune scan" if count > 1 else ".")
            )
        )
    return collection


def crop_policy(
    collection: Collection, catalog: Path | None, before: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns how a prediction should choose its square, as `curation.policy` understands it.

    None where most photos have no square of their own: the run's fit then serves predictions too.

    Args:
        collection: What is trained on.
        catalog: Where its catalog is kept.
        before: How the run that is gone on from chose them, where the collection does not say.
    """
    with_square = sum(photo.crop is not None for photo in collection.photos)
    if 2 * with_square <= len(collection):
        return None
    policy = remembered_policy(collection.root, catalog)
    if policy is not None:
        return policy.to_dict()
    return before or PolicySpec(method="saliency").to_dict()


def square_notes(
    collection: Collection, policy: dict[str, Any] | None, before: dict[str, Any] | None = None
) -> list[str]:
    """Returns what a person must know of the squares; `before` as in `crop_policy`."""
    if policy is None:
        if before is None:
            return []
        return [
            "The earlier run learned from squares around subjects, and most of these photos have "
            "none. Make them with: finetune crop"
        ]
    without = sum(photo.crop is None for photo in collection.photos)
    notes = [SQUARES_NOTE]
    if without and before is not None:
        have = "photo has" if without == 1 else "photos have"
        notes.append(f"{without:,} {have} no square yet. Make them with: finetune crop")
    return notes
