"""Groups of photos that must stay in the same part of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune.config import GroupBy
from finetune.errors import ConfigError
from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.fingerprints import compute_fingerprints
from finetune.photos.near_duplicates.groups import Components, group_keys, group_photos
from finetune.photos.near_duplicates.pairs import BURST_SECONDS, SERIES_SECONDS, NearDuplicateRule

_CHAIN_PHOTOS = 50
_CHAIN_SHARE = 20


def photo_groups(
    photos: Sequence[Photo],
    *,
    group_by: GroupBy = "duplicates",
    assigned: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns a group key for each photo.

    Whatever `group_by` is, exact copies share a key, and so do photos that a person put in one
    group.

    Args:
        photos: The photos of a collection.
        group_by: ``duplicates``: near-duplicates, mirror images and frames of a burst (one camera,
            two seconds, similar hashes). ``burst``: these, and all that one camera took with pauses
            of up to half a minute. ``folder``: all photos of a folder. ``none``: nothing more.
        assigned: Group names that a person assigned, by digest.

    Returns:
        Keys that stay the same from one run to the next: the smallest digest of each group.

    Raises:
        ConfigError: An unknown `group_by`.
    """
    joined = Components(len(photos))
    _join_equal(joined, [photo.digest for photo in photos])
    names = assigned or {}
    _join_equal(joined, [names.get(photo.digest) for photo in photos])
    match group_by:
        case "none":
            pass
        case "folder":
            _join_equal(joined, [photo.folder for photo in photos])
        case "duplicates" | "burst":
            ids = group_photos(compute_fingerprints(photos), split_rule(len(photos), group_by))
            joined.join(ids, np.arange(len(photos)))
        case _:
            raise ConfigError(f"--group-by {group_by} is none of duplicates, burst, folder, none.")
    return group_keys(joined.ids(), [photo.digest for photo in photos])


def split_rule(photos: int, group_by: GroupBy = "duplicates") -> NearDuplicateRule:
    """Returns the near-duplicate rule for splitting a collection of so many photos.

    Long chains of near-duplicates stay together, unless a chain is so long that it would dominate
    the split.
    """
    chain = max(_CHAIN_PHOTOS, photos // _CHAIN_SHARE)
    if group_by == "burst":
        return NearDuplicateRule(chain_photos=chain, burst_seconds=SERIES_SECONDS, burst_bits=64)
    return NearDuplicateRule(chain_photos=chain, burst_seconds=BURST_SECONDS)


def _join_equal(joined: Components, keys: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(key, index), index) for index, key in enumerate(keys) if key is not None
    ]
    array = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    joined.join(array[:, 0], array[:, 1])
