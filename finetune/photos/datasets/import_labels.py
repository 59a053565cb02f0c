"""Import of labels from other programs into the catalog."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from finetune.errors import CollectionError
from finetune.photos.analyze import digest_of
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.collection import Collection, Photo
from finetune.photos.datasets.label_table import LabeledPath, LabelTable, read_label_table
from finetune.photos.labels import find_parts, label_twins, nfc
from finetune.photos.scan import find_photos


@dataclass(frozen=True, kw_only=True)
class LabelImport:
    """Planned changes of an import.

    Attributes:
        format: Format of the label table.
        new: Labels to write, by digest.
        kept: Photos that keep their different assigned labels, as (path, labels not imported).
        same: Number of photos that already have the imported labels.
        unknown: Rows that match no photo of the collection.
        elsewhere: Of those, rows whose file name a photo in another folder has, with its path.
        unlabeled: Number of rows without a label.
        twins: Labels that differ in case, blanks or punctuation alone, new or old.
    """

    format: str
    new: dict[str, tuple[str, ...]]
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    same: int
    unknown: tuple[LabeledPath, ...]
    elsewhere: tuple[tuple[str, str], ...]
    unlabeled: int
    twins: tuple[tuple[str, ...], ...]


def read_labels(
    source: Path,
    *,
    encoding: str | None = None,
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
        label, _ = parts.place(path)
        if label is not None:
            digest = digest_of((source / path).read_bytes())
            rows.append(LabeledPath(path=digest, labels=(label,), line=number))
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
    by_name: bool = False,
) -> LabelImport:
    """Returns the changes that importing a table would make, without making them.

    A photo is found by its path below the collection or below the file's own folder, by its
    absolute path, by its content where the file's path leads to a copy of it, or by the end of its
    path, if no folder that the table names contradicts the photo's and only one photo fits. A photo
    that has several rows gets the labels of all of them.

    Args:
        table: The rows to import.
        collection: The photos to label.
        assigned: Labels assigned before, by digest.
        beside: The folder of the table, against which relative paths are resolved.
        overwrite: Replace different assigned labels.
        empty_is_none: Import a row without a label as "no label fits" instead of skipping it.
        by_name: Find photos by their file names where the folders differ.
    """
    find = _Finder(collection, beside, by_name=by_name)
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
    named = [(row, find.same_name(row.path)) for row in unknown]
    return LabelImport(
        format=table.format,
        new=new,
        kept=tuple(kept),
        same=same,
        unknown=tuple(unknown),
        elsewhere=tuple((row.path, found.path) for row, found in named if found is not None),
        unlabeled=unlabeled,
        twins=label_twins(
            {*collection.labels, *(name for names in new.values() for name in names)}
        ),
    )


def apply_import(catalog: Catalog, plan: LabelImport) -> int:
    """Writes a planned import as assigned labels; returns the number of photos labeled.

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

    def __init__(self, collection: Collection, beside: Path, *, by_name: bool) -> None:
        self._root = collection.root.resolve()
        self._beside = beside.resolve()
        self._any_folder = by_name
        self._by_path = {nfc(photo.path): photo for photo in collection.photos}
        self._by_digest = {photo.digest: photo for photo in collection.photos}
        self._by_name: defaultdict[str, list[Photo]] = defaultdict(list)
        for photo in collection.photos:
            self._by_name[_folded(photo.path)[-1]].append(photo)

    def __call__(self, written: str) -> Photo | None:
        """Returns the photo of a path as written, without blanks around it, or percent-decoded."""
        if written in self._by_digest:
            return self._by_digest[written]
        for text in dict.fromkeys((written, written.strip(), _decoded(written.strip()))):
            # Neural Network Console runs on Windows and writes its paths that way.
            found = self._find(nfc(text.replace("\\", "/"))) or self._find(nfc(text))
            if found is not None:
                return found
        return None

    def same_name(self, written: str) -> Photo | None:
        """Returns the only photo with the file name of a path, whatever its folders are."""
        named = self._by_name.get(_folded(written.strip().replace("\\", "/"))[-1], [])
        return named[0] if len({photo.digest for photo in named}) == 1 else None

    def _find(self, path: str) -> Photo | None:
        found = self._by_path.get(str(PurePosixPath(path)))
        if found is not None:
            return found
        try:
            found_at = os.path.realpath(self._beside / path)
            below = Path(found_at).relative_to(self._root)
        except (ValueError, OSError):
            below = None
        if below is not None and nfc(below.as_posix()) in self._by_path:
            return self._by_path[nfc(below.as_posix())]
        return self._by_content(self._beside / path) or self._by_end(path)

    def _by_content(self, file: Path) -> Photo | None:
        """Returns the photo that a file is a copy of."""
        try:
            return self._by_digest.get(digest_of(file.read_bytes())) if file.is_file() else None
        except (OSError, ValueError):
            return None

    def _by_end(self, path: str) -> Photo | None:
        """Returns the only photo whose folders, as far as both are known, are those of the path."""
        wanted = _folded(path)
        candidates = self._by_name.get(wanted[-1], []) if wanted else []
        exact = [
            p for p in candidates if PurePosixPath(nfc(p.path)).name == PurePosixPath(path).name
        ]
        candidates = exact or candidates
        if not self._any_folder:
            candidates = [photo for photo in candidates if self._agrees(wanted, photo)]
        if len({photo.digest for photo in candidates}) == 1:
            return candidates[0]
        common = [_common_end(_folded(photo.path), wanted) for photo in candidates]
        longest = max(common, default=0)
        if longest < 2 or common.count(longest) > 1:
            return None
        return candidates[common.index(longest)]

    def _agrees(self, wanted: Sequence[str], photo: Photo) -> bool:
        own = (nfc(self._root.name).casefold(), *_folded(photo.path))
        return _common_end(own, wanted) == min(len(own), len(wanted))


def _folded(path: str) -> tuple[str, ...]:
    return tuple(part.casefold() for part in PurePosixPath(nfc(path)).parts)


def _decoded(written: str) -> str:
    """Returns a path that another program wrote as (part of) an address."""
    # Label Studio: of a file that it was given, with a prefix, and of a folder that it reads.
    uploaded = re.search(r"/data/upload/\d+/[0-9a-f]{8}-([^/]+)$", written)
    if uploaded:
        return unquote(uploaded[1])
    served = re.search(r"/data/local-files/\?d=(.+)$", written)
    if served:
        return unquote(served[1])
    if "%" not in written and not written.startswith("file:"):
        return written
    return unquote(written.removeprefix("file://"))


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
