"""Import of labels from other programs into the catalog."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune.errors import CollectionError
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.collection import Collection, Photo
from finetune.photos.datasets.label_tables import LabeledPath, LabelTable, read_label_table
from finetune.photos.labels import find_parts, nfc, place_of
from finetune.photos.walk import find_photos

_DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class LabelImport:
    """Planned changes of an import.

    Attributes:
        format: Format of the label table.
        new: Labels to write, by digest.
        kept: Photos that keep a person's different labels, as (path, labels not imported).
        same: Number of photos that already have the imported labels.
        unknown: Rows that match no photo of the collection.
        unlabeled: Number of rows without a label.
    """

    format: str
    new: dict[str, tuple[str, ...]]
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    same: int
    unknown: tuple[LabeledPath, ...]
    unlabeled: int


def read_labels(
    source: Path,
    *,
    encoding: str = "utf-8-sig",
    progress: Callable[[int, int], None] | None = None,
) -> LabelTable:
    """Returns the labels in a file (see `read_label_table`) or in a folder with one folder a label.

    Photos in a folder are identified by their content: each row's path is the photo's digest.

    Raises:
        CollectionError: The file cannot be read, or the folder has no photos in folders.
    """
    if not source.is_dir():
        return read_label_table(source, encoding=encoding)
    for name in ("metadata.csv", "metadata.jsonl"):
        if (source / name).is_file():
            return read_label_table(source / name, encoding=encoding)
    files = [file.path for file in find_photos(source).files]
    parts = find_parts(files)
    rows = []
    for number, path in enumerate(files, start=1):
        label, _ = place_of(path, parts)
        if label is not None:
            rows.append(LabeledPath(path=_digest(source / path), labels=(label,), line=number))
        if progress is not None:
            progress(number, len(files))
    if not rows:
        raise CollectionError(
            f"{source} has no folder of photos for a label. Give such a folder, or a CSV file."
        )
    return LabelTable(format="folders", rows=tuple(rows))


def plan_import(
    table: LabelTable,
    collection: Collection,
    assigned: Mapping[str, tuple[str, ...]],
    *,
    beside: Path,
    overwrite: bool = False,
    empty_is_none: bool = False,
) -> LabelImport:
    """Returns the changes that importing a table would make, without making them.

    A photo is found by its path below the collection or below the file's own folder, by its
    absolute path, by its content where the file's path leads to a copy of it, by the end of its
    path, or by its name alone where only one photo has that name. A photo that has several rows
    gets the labels of all of them.

    Args:
        table: The rows to import.
        collection: The photos to label.
        assigned: Labels that a person assigned before, by digest.
        beside: The folder of the table, against which relative paths are resolved.
        overwrite: Replace a person's different labels.
        empty_is_none: Import a row without a label as "no label fits" instead of skipping it.
    """
    find = _Finder(collection, beside)
    labels_of: defaultdict[str, list[str]] = defaultdict(list)
    photo_of: dict[str, Photo] = {}
    unknown = []
    unlabeled = 0
    for row in table.rows:
        photo = find(row.path)
        if photo is None:
            unknown.append(row)
        elif not row.labels and not empty_is_none:
            unlabeled += 1
        else:
            photo_of.setdefault(photo.digest, photo)
            labels_of[photo.digest].extend(row.labels)
    new, kept, same = {}, [], 0
    for digest, found in labels_of.items():
        labels = tuple(sorted(set(found)))
        before = assigned.get(digest)
        silent = not labels and before is None
        if (
            tuple(sorted(photo_of[digest].labels)) == labels
            and before in (None, labels)
            and not silent
        ):
            same += 1
        elif before is not None and not overwrite:
            kept.append((photo_of[digest].path, labels))
        else:
            new[digest] = labels
    return LabelImport(
        format=table.format,
        new=new,
        kept=tuple(kept),
        same=same,
        unknown=tuple(unknown),
        unlabeled=unlabeled,
    )


def apply_import(catalog: Catalog, plan: LabelImport) -> int:
    """Writes a planned import as a person's labels; returns the number of photos labeled.

    Each set of labels is one action of the catalog's journal.
    """
    digests_of: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for digest, labels in plan.new.items():
        digests_of[labels].append(digest)
    for labels, digests in sorted(digests_of.items()):
        catalog.set_labels(digests, labels)
    return len(plan.new)


class _Finder:
    """Finds a photo of the collection by the path in a label table."""

    def __init__(self, collection: Collection, beside: Path) -> None:
        self._root = collection.root.resolve()
        self._beside = beside.resolve()
        self._by_path = {nfc(photo.path): photo for photo in collection.photos}
        self._by_digest = {photo.digest: photo for photo in collection.photos}
        self._by_name: defaultdict[str, list[Photo]] = defaultdict(list)
        for photo in collection.photos:
            self._by_name[nfc(PurePosixPath(photo.path).name)].append(photo)

    def __call__(self, written: str) -> Photo | None:
        if written in self._by_digest:
            return self._by_digest[written]
        # Neural Network Console runs on Windows and writes its paths that way.
        path = nfc(written.replace("\\", "/"))
        found = self._by_path.get(str(PurePosixPath(path)))
        if found is not None:
            return found
        try:
            below = (self._beside / path).resolve().relative_to(self._root)
        except (ValueError, OSError):
            below = None
        if below is not None and nfc(below.as_posix()) in self._by_path:
            return self._by_path[nfc(below.as_posix())]
        return self._by_content(self._beside / path) or self._by_end(PurePosixPath(path))

    def _by_content(self, file: Path) -> Photo | None:
        """Returns the photo that a file is a copy of."""
        try:
            return self._by_digest.get(_digest(file)) if file.is_file() else None
        except OSError:
            return None

    def _by_end(self, path: PurePosixPath) -> Photo | None:
        """Returns the only photo of this name, or the one that shares the most parent folders."""
        candidates = self._by_name.get(path.name, [])
        if len({photo.digest for photo in candidates}) == 1:
            return candidates[0]
        common = [_common_end(PurePosixPath(nfc(photo.path)), path) for photo in candidates]
        longest = max(common, default=0)
        if longest < 2 or common.count(longest) > 1:
            return None
        return candidates[common.index(longest)]


def _common_end(first: PurePosixPath, second: PurePosixPath) -> int:
    pairs = zip(reversed(first.parts), reversed(second.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=_DIGEST_BYTES).hexdigest()
