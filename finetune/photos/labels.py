"""Labels: spelling, class order, and checks that each has enough photos."""

from __future__ import annotations

import dataclasses
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError
from finetune.formatting import count
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.members import folders_of

_PART_NAMES: tuple[tuple[Part, str], ...] = (
    ("train", "train|training|trn|tr"),
    ("validation", "val|valid|validation|validate|dev"),
    ("test", "test|testing|tst|eval|evaluation"),
)
_PART_FOLDERS: tuple[tuple[Part, re.Pattern[str]], ...] = tuple(
    (part, re.compile(rf"({names})([ _-]?(set|data|images?|photos?|split))?"))
    for part, names in _PART_NAMES
)


def part_of_folder(name: str) -> Part | None:
    """Returns the part that a folder's name stands for, in any case, or None."""
    folded = name.strip().casefold()
    return next((part for part, names in _PART_FOLDERS if names.fullmatch(folded)), None)


@dataclass(frozen=True, kw_only=True)
class PartFolders:
    """Ready-made parts of a collection; false if there are none.

    Attributes:
        depth: Number of folders above the folder of the part: 0 for ``train/heron/1.jpg``; None if
            it is the last folder, below the label: ``heron/train/1.jpg``.
        names: The folders, by name.
        others: Folders of photos beside those of the parts.
    """

    depth: int | None = 0
    names: Mapping[str, Part] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names)

    def place(self, path: str) -> tuple[str | None, Part | None]:
        """Returns the folder's label and the part of a photo at a path below the root."""
        folders = folders_of(path, with_parts=bool(self.names))
        if not self.names:
            return label_of_folder("/".join(folders)), None
        at = len(folders) - 1 if self.depth is None else self.depth
        part = self.names.get(folders[at]) if 0 <= at < len(folders) else None
        if part is None:
            return None, None
        return label_of_folder(
            "/".join(folders[:at] if self.depth is None else folders[at + 1 :])
        ), part

    def folder_of(self, path: str, label_folder: str) -> str:
        """Returns the folder of a photo after another label's folder replaced its own."""
        folders = path.split("/")[:-1]
        if self.place(path)[1] is None:
            return label_folder
        if self.depth is None:
            return f"{label_folder}/{folders[-1]}"
        return "/".join([*folders[: self.depth + 1], label_folder])


NO_PARTS = PartFolders()


def find_parts(paths: Iterable[str]) -> PartFolders:
    """Returns the folders of ready-made parts: train, validation and test, each in several names.

    They lie below the root or below one folder that holds everything, with labels below them; or
    below each label. One is the training part and there is another one, so a collection of trains
    and buses has no parts.

    Args:
        paths: Paths of photos below the root, with ``/``.
    """
    rows = [folders_of(path, with_parts=True) for path in paths]
    rows = [row for row in rows if row]
    depth = 0
    while rows and all(len(row) > depth for row in rows):
        names = _part_names(row[depth] for row in rows)
        if names and any(len(row) > depth + 1 and row[depth] in names for row in rows):
            others = sorted({row[depth] for row in rows} - set(names))
            return PartFolders(depth=depth, names=names, others=tuple(others))
        if len({row[depth] for row in rows}) > 1:
            break
        depth += 1
    names = _part_names(row[-1] for row in rows)
    if names and all(len(row) > 1 and row[-1] in names for row in rows):
        return PartFolders(depth=None, names=names)
    return NO_PARTS


def _part_names(folders: Iterable[str]) -> dict[str, Part]:
    """Returns the parts by folder; empty without a training part and another one."""
    found = {name: part for name in set(folders) if (part := part_of_folder(name)) is not None}
    complete = "train" in found.values() and len(set(found.values())) > 1
    return found if complete else {}


def beside_parts(collection: Collection) -> tuple[str, ...]:
    """Returns the folders with photos that lie beside a collection's ready-made parts."""
    parts = find_parts(photo.path for photo in collection.photos)
    return parts.others


SEPARATOR = "|"
"""Separator of the labels of a photo; a backslash escapes it."""


def join_labels(labels: Sequence[str]) -> str:
    r"""Returns labels as one cell.

    Example:
        >>> join_labels(["gull", "in flight"])
        'gull|in flight'
    """
    escaped = (label.replace("\\", "\\\\").replace(SEPARATOR, "\\|") for label in labels)
    return SEPARATOR.join(escaped)


def split_labels(cell: str) -> tuple[str, ...]:
    """Returns the labels in a cell, without empty ones; the inverse of `join_labels`."""
    parts = re.findall(r"(?:[^\\|]|\\.?)+", cell, flags=re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts)


logger = logging.getLogger(__name__)

ENOUGH_PHOTOS = 20
"""Number of photos below which a training names a label, with advice."""

_MAX_NAMED = 6


def nfc(text: str) -> str:
    r"""Returns text in Unicode's composed form (NFC), the one spelling in which labels compare.

    macOS writes the folder ガ as カ and a sound mark; both are one label.

    Example:
        >>> nfc("カ\u3099")
        'ガ'
    """
    return unicodedata.normalize("NFC", text)


_CAMERA_FOLDER = re.compile(r"DCIM|(?!\d{8})[1-9]\d\d[A-Z0-9_]{5}|20\d{4}_[a-z_]")
"""Folders that cameras make (JEITA DCF: three digits and five characters) and those of iPhones."""


def label_of_folder(folder: str) -> str | None:
    """Returns the label of the photos in a folder below the root, or None if it is no label.

    The root is none, and neither are the folders of a memory card.

    Example:
        >>> label_of_folder("gulls/herring gull"), label_of_folder("DCIM/100CANON")
        ('gulls/herring gull', None)
    """
    names = [name for name in folder.split("/") if name and not _CAMERA_FOLDER.fullmatch(name)]
    return nfc("/".join(names)) or None


def label_twins(labels: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Returns sets of labels that differ in case, compatibility forms, blanks or marks alone.

    Example:
        >>> label_twins(["owl", "Owl ", "heron"])
        (('Owl ', 'owl'),)
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        folded = unicodedata.normalize("NFKC", label).casefold()
        key = re.sub(r"[\s\x00-\x1f_.:;,?*<>|\"-]", "", folded)
        by_name[key or folded].append(label)
    return tuple(tuple(names) for names in by_name.values() if len(names) > 1)


def twins_note(twins: Sequence[Sequence[str]]) -> str | None:
    """Returns a note on labels that are nearly the same, or None without any."""
    if not twins:
        return None
    shown = "; ".join(" / ".join(map(repr, names)) for names in twins[:3])
    more = f" and {len(twins) - 3} more" if len(twins) > 3 else ""
    return (
        f"Labels that differ in case, blanks or punctuation alone: {shown}{more}. They count as "
        "different labels; if they mean the same, rename one."
    )


def photo_counts(photos: Sequence[Photo]) -> dict[str, int]:
    """Returns the number of photos by label, sorted; a photo counts for each of its labels."""
    counts = Counter(label for photo in photos for label in photo.labels)
    return dict(sorted(counts.items()))


def label_index(labels: Sequence[str]) -> dict[str, int]:
    """Returns each label's index in the class order."""
    return {label: index for index, label in enumerate(labels)}


def targets_of(photos: Sequence[Photo], labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the class indices ``(N,) int64`` of photos that have one label each.

    Raises:
        CollectionError: A photo has no label, several, or one that is not in `labels`.
    """
    index = label_index(labels)
    targets = np.empty(len(photos), dtype=np.int64)
    for row, photo in enumerate(photos):
        if len(photo.labels) != 1:
            found = ", ".join(map(repr, photo.labels)) or "none"
            raise CollectionError(
                f"{photo.path} has {len(photo.labels)} labels ({found}) where one is needed."
            )
        if photo.labels[0] not in index:
            raise CollectionError(f"{photo.path} has the unknown label {photo.labels[0]!r}.")
        targets[row] = index[photo.labels[0]]
    return targets


def check_labels(
    collection: Collection, *, min_photos: int | None = None, least: int = 2
) -> Collection:
    """Returns the photos of a collection for training a classifier.

    Photos without a label are left out, and so are labels below `min_photos`; both with a
    ``logging.warning``.

    Args:
        collection: A scanned collection.
        min_photos: Leave out labels with fewer photos; None: a label with too few is an error.
        least: Required number of labels: one is enough if other photos have none.

    Raises:
        CollectionError: There is no label or only one, a label has too few photos, or a label has
            no photo in the ready training part. The message names all such labels.
    """
    beside = beside_parts(collection)
    if beside:
        names = ", ".join(map(repr, beside[:_MAX_NAMED])) + (
            " ..." if len(beside) > _MAX_NAMED else ""
        )
        raise CollectionError(
            f"{collection.root} has ready-made parts (train, validation or test), and beside them "
            f"the {'folder' if len(beside) == 1 else 'folders'} {names}. Move "
            f"{'it' if len(beside) == 1 else 'them'} out of {collection.root}, or into one of the "
            "parts."
        )
    labeled = tuple(photo for photo in collection.photos if photo.labels)
    if not labeled:
        raise CollectionError(
            f"The photos in {collection.root} have no labels. "
            "Put them into one folder for each label, or label them with: finetune annotate"
        )
    none = sum(not photo.labels and photo.confirmed for photo in collection.photos)
    unlabeled = len(collection.photos) - len(labeled) - none
    for number, reason in ((unlabeled, "no label"), (none, "none of the labels")):
        if number:
            logger.warning(
                "%s %s and %s left out.",
                count(number, "photo has", "photos have"),
                reason,
                "is" if number == 1 else "are",
            )
    counts = photo_counts(labeled)
    twins = twins_note(label_twins(counts))
    if twins:
        logger.warning("%s", twins)
    if min_photos is not None:
        small = {label: n for label, n in counts.items() if n < min_photos}
        if small:
            logger.warning(
                "Left out by --min-photos %d: %s.", min_photos, _named(small, connect=" with ")
            )
        labeled = without_labels(labeled, small)
        counts = {label: n for label, n in counts.items() if label not in small}
    if len(counts) < least:
        found = "no label" if not counts else f"only the label {next(iter(counts))!r}"
        raise CollectionError(
            f"{collection.root} has {found} to learn; a classifier needs 2 or more. "
            + (
                "Label photos of something else with: finetune annotate"
                if unlabeled
                else "Add a folder of photos of something else."
            )
        )
    if collection.has_parts:
        _check_training_part(collection, labeled, counts)
    elif min_photos is None:
        _check_sizes(counts)
    return dataclasses.replace(collection, photos=labeled)


def without_labels(photos: Sequence[Photo], labels: Mapping[str, object]) -> tuple[Photo, ...]:
    """Returns photos without these labels; photos without another label are left out."""
    kept = []
    for photo in photos:
        rest = tuple(label for label in photo.labels if label not in labels)
        if rest:
            same = len(rest) == len(photo.labels)
            kept.append(photo if same else dataclasses.replace(photo, labels=rest))
    return tuple(kept)


def few_photos(photos: Sequence[Photo], *, enough: int = ENOUGH_PHOTOS) -> str | None:
    """Returns advice on labels with few photos as text; None without any.

    Args:
        photos: The photos of the training.
        enough: Labels with fewer photos are named.
    """
    counts = photo_counts(photos)
    small = {label: n for label, n in counts.items() if n < enough}
    if not small:
        return None
    fewest = sorted(small, key=lambda label: (small[label], label))
    named = ", ".join(f"{label!r} ({small[label]})" for label in fewest[:_MAX_NAMED])
    more = f" and {len(small) - _MAX_NAMED} more" if len(small) > _MAX_NAMED else ""
    which = count(len(small), "label has", "labels have")
    advice = "Photos of these would help most; until then their figures are rough"
    unequal = max(counts.values()) >= 2 * min(counts.values())
    balance = ", and --balance sampling gives all labels the same weight" if unequal else ""
    return f"{which} under {enough} photos: {named}{more}. {advice}{balance}."


def _check_sizes(counts: Mapping[str, int]) -> None:
    single = [repr(label) for label, n in counts.items() if n < 2]
    if len(single) == 1:
        raise CollectionError(
            f"Label {single[0]} has 1 photo; a split into train and validation needs 2. "
            "Add a photo, or leave the label out with --min-photos 2."
        )
    if single:
        raise CollectionError(
            f"Labels {', '.join(single)} have 1 photo each; a split into train and validation "
            "needs 2. Add photos, or leave these labels out with --min-photos 2."
        )


def _check_training_part(
    collection: Collection, photos: Sequence[Photo], counts: Mapping[str, int]
) -> None:
    trained = {label for photo in photos if photo.part == "train" for label in photo.labels}
    untrained = [label for label in counts if label not in trained]
    if untrained:
        names = ", ".join(map(repr, untrained))
        several = len(untrained) > 1
        raise CollectionError(
            f"{'Labels' if several else 'Label'} {names} {'have' if several else 'has'} no photo "
            f"in the train folder of {collection.root}. Add some, or take the "
            f"{'labels' if several else 'label'} out of the other folders."
        )


def _named(counts: Mapping[str, int], *, connect: str) -> str:
    return ", ".join(
        f"{label!r}{connect}{count(photos, 'photo', 'photos')}" for label, photos in counts.items()
    )


ROOT = "."
"""As `negatives`: the photos that lie in no folder."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelPhotos:
    """Photos of a multi-label training, and notes for the user.

    Attributes:
        collection: Photos with all their labels; without labels if none fits.
        notes: A sentence each.
    """

    collection: Collection
    notes: tuple[str, ...]


def multilabel_photos(
    collection: Collection, *, negatives: str | None = None, min_photos: int | None = None
) -> MultiLabelPhotos:
    """Returns the photos of a collection with all their labels, each content once.

    A file that lies in several label folders has the labels of all of them. A photo has none of the
    labels if it was marked so (in the catalog, or by an empty line of an imported file), or if it
    lies in the folder `negatives`. Other photos without a label are left out: their labels are
    unknown.

    Args:
        collection: A scanned collection.
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
        f"Several labels a photo: {count(several, 'photo')} with more than one, {len(none):,} with "
        f"none, {sum(len(photo.labels) for photo in photos) / len(photos):.2f} labels a photo."
    )
    if copies:
        notes.append(
            f"{count(copies, 'file is a copy', 'files are copies')} of another; "
            "a photo that lies in several folders has all their labels."
        )
    if unknown:
        notes.append(
            f"{count(unknown, 'photo')} without a label left out. If none of the labels fits, mark "
            "them with --negatives, or in finetune annotate."
        )
    return MultiLabelPhotos(
        collection=dataclasses.replace(collection, photos=photos), notes=tuple(notes)
    )


def _lies_in(photo: Photo, folder: str) -> bool:
    prefix = "" if folder == ROOT else folder.strip("/")
    place = photo.folder
    if photo.part is not None:
        # A ready part has its own folder of negatives: train/none, val/none.
        place = place.partition("/")[2]
    return place == prefix or (prefix != "" and place.startswith(f"{prefix}/"))


def _without_labels(photo: Photo, negatives: str | None) -> Photo:
    if negatives is None or photo.confirmed or not _lies_in(photo, negatives):
        return photo
    return dataclasses.replace(photo, labels=(), confirmed=True)


def merge_copies(photos: Sequence[Photo]) -> tuple[list[Photo], int]:
    """Returns each content once in each part, with the labels of all its copies.

    Also returns the number of merged copies.
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
