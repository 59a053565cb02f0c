"""Bursts: frames of one subject that were taken one after the other."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.pairs import BURST_SECONDS, SERIES_SECONDS
from finetune.photos.split.grouping import photo_groups

MANY_BURSTS = 0.3
"""Share of frames that follow another one at once from which bursts are offered."""


def burst_groups(photos: Sequence[Photo]) -> list[int]:
    """Returns the burst of each photo, numbered from 0 in the order of their first frames.

    Frames are near-duplicates, or look similar and were taken by one camera within two seconds, as
    in `finetune.photos.split.grouping.photo_groups`. Frames with a pause of more than half a
    minute between them are two bursts, although a camera that stands still makes them alike.
    """
    by_group: defaultdict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(photo_groups(photos)):
        by_group[group].append(index)
    part_of: dict[int, tuple[str, int]] = {}
    for group, members in by_group.items():
        timed = [(moment, k) for k in members if (moment := taken_at(photos[k])) is not None]
        part, before = 0, None
        for moment, index in sorted(timed):
            if before is not None and (moment - before).total_seconds() > SERIES_SECONDS:
                part += 1
            part_of[index] = (group, part)
            before = moment
        # Without a time the looks alone decide: these belong to the first part.
        part_of.update({index: (group, 0) for index in members if index not in part_of})
    numbers: dict[tuple[str, int], int] = {}
    return [numbers.setdefault(part_of[index], len(numbers)) for index in range(len(photos))]


def taken_at(photo: Photo) -> datetime | None:
    """Returns the time of a photo's exposure, or None."""
    return datetime.fromisoformat(photo.taken_at) if photo.taken_at else None


def share_of_followers(times: Sequence[tuple[str | None, str | None]]) -> float:
    """Returns the share of photos that follow another one of the same camera within two seconds.

    Args:
        times: Time in ISO form and camera of each photo, in the order of the photos.
    """
    followers = 0
    for (first, camera), (second, other) in itertools.pairwise(times):
        if first and second and camera == other:
            pause = datetime.fromisoformat(second) - datetime.fromisoformat(first)
            followers += abs(pause.total_seconds()) <= BURST_SECONDS
    return followers / max(1, len(times))
