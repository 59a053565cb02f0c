"""A collection whose photos may have several labels, or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.errors import CollectionError
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import check_labels

ROOT = "."
"""As `negatives`: the photos that lie in no folder."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelPhotos:
    """What takes part, and what a person must know of it.

    Attributes:
        collection: Photos with all their labels; without any where none fits.
        notes: A sentence each.
    """

    collection: Collection
    notes: tuple[str, ...]


def multilabel_photos(
    collection: Collection, *, negatives: str | None = None, min_photos: int | None = None
) -> MultiLabelPhotos:
    """Returns the photos of a collection with all their labels, each content once.

    A file that lies in several label folders has the labels of all of them. A photo has none of the
    labels where a person said so (in the catalog, or by an empty line of an imported file), or
    where it lies in the folder `negatives`. Other photos without a label are left out: nobody knows
    what they show.

    Args:
        collection: What a scan found.
        negatives: Folder below the root (or below a ready part) whose photos have no label; ``.``
            for those in no folder.
        min_photos: Leave out labels with fewer photos, as in `check_labels`.

    Raises:
        CollectionError: Too few photos of a label, no label at all, or no photo in `negatives`.
    """
    marked = [_without_labels(photo, negatives) for photo in collection.photos]
    if negatives is not None and not any(_lies_in(p, negatives) for p in collection.photos):
        where = "directly in it" if negatives == ROOT else f"in its folder '{negatives}'"
        raise CollectionError(
            f"--negatives {negatives}: {collection.root} has no photo {where}. "
            "Name the folder as it is called below PHOTOS."
        )
    merged, copies = merge_copies(marked)
    none = [photo for photo in merged if not photo.labels and photo.confirmed]
    rest = [photo for photo in merged if photo.labels]
    unknown = len(merged) - len(none) - len(rest)
    checked = check_labels(
        dataclasses.replace(collection, photos=tuple(rest)),
        min_photos=min_photos,
        least=1 if none else 2,
    )
    photos = tuple(sorted((*checked.photos, *none), key=lambda photo: photo.path))
    notes = []
    several = sum(len(photo.labels) > 1 for photo in photos)
    notes.append(
        f"Several labels a photo: {_photos(several)} with more than one, {len(none):,} with none, "
        f"{sum(len(photo.labels) for photo in photos) / len(photos):.2f} labels a photo."
    )
    if copies:
        notes.append(
            f"{copies:,} {'file is a copy' if copies == 1 else 'files are copies'} of another; "
            "a photo that lies in several folders has all their labels."
        )
    if unknown:
        notes.append(
            f"{_photos(unknown)} without a label left out. If none of the labels fits them, say so "
            "with --negatives, or in finetune annotate."
        )
    return MultiLabelPhotos(
        collection=dataclasses.replace(collection, photos=photos), notes=tuple(notes)
    )


def _lies_in(photo: Photo, folder: str) -> bool:
    wanted = "" if folder == ROOT else folder.strip("/")
    place = photo.folder
    if photo.part is not None:
        # A ready part has its own folder of negatives: train/none, val/none.
        place = place.partition("/")[2]
    return place == wanted or (wanted != "" and place.startswith(f"{wanted}/"))


def _without_labels(photo: Photo, negatives: str | None) -> Photo:
    if negatives is None or photo.confirmed or not _lies_in(photo, negatives):
        return photo
    return dataclasses.replace(photo, labels=(), confirmed=True)


def merge_copies(photos: Sequence[Photo]) -> tuple[list[Photo], int]:
    """Returns each content once in each part, with the labels of all its copies; and how many.

    The number is that of the copies that were merged into another.
    """
    labels_of: dict[str, set[str]] = {}
    confirmed: set[str] = set()
    for photo in photos:
        labels_of.setdefault(photo.digest, set()).update(photo.labels)
        if photo.confirmed:
            confirmed.add(photo.digest)
    merged = list(_first_copies(photos, labels_of, confirmed))
    return merged, len(photos) - len(merged)


def _first_copies(
    photos: Sequence[Photo], labels_of: dict[str, set[str]], confirmed: set[str]
) -> Iterator[Photo]:
    seen = set()
    for photo in photos:
        key = (photo.digest, photo.part)
        if key not in seen:
            seen.add(key)
            labels = tuple(sorted(labels_of[photo.digest]))
            yield dataclasses.replace(photo, labels=labels, confirmed=photo.digest in confirmed)


def _photos(count: int) -> str:
    return f"{count:,} {'photo' if count == 1 else 'photos'}"
