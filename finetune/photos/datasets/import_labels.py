"""Import of labels from other programs into the catalog."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune.errors import CollectionError
from finetune.photos.analyze import digest_of
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import find_parts, nfc, place_of, split_labels
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
) -> LabelImport:
    """Returns the changes that importing a table would make, without making them.

    A photo is found by its path below the collection or below the file's own folder, by its
    absolute path, by its content where the file's path leads to a copy of it, by the end of its
    path, or by its name alone where only one photo has that name. A photo that has several rows
    gets the labels of all of them.

    Args:
        table: The rows to import.
        collection: The photos to label.
        assigned: Labels assigned before, by digest.
        beside: The folder of the table, against which relative paths are resolved.
        overwrite: Replace different assigned labels.
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
            return self._by_digest.get(digest_of(file.read_bytes())) if file.is_file() else None
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


_PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "photo", "name")
_LABEL_COLUMNS = ("labels", "label", "class", "class_name", "category", "species", "target")
_INDEX_NAMES = "labels.txt"


@dataclass(frozen=True, kw_only=True)
class LabeledPath:
    """One row of a label table.

    Attributes:
        path: As written in the file.
        labels: In NFC; empty if the row has none.
        line: Line number, from 1.
    """

    path: str
    labels: tuple[str, ...]
    line: int


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """Labels read from a file.

    Attributes:
        format: ``Neural Network Console``, ``Hugging Face``, ``CSV`` or ``folders``.
    """

    format: str
    rows: tuple[LabeledPath, ...]


def read_label_table(path: Path, *, encoding: str = "utf-8-sig") -> LabelTable:
    """Returns the labels in a file; recognizes its format.

    - Neural Network Console: ``x:image,y:label`` with the label's index (its name is the line of
      that index in ``labels.txt`` beside the file, where there is one) or text, or one column
      ``y__0:NAME`` of 0 and 1 a label.
    - Hugging Face: ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and ``label``.
    - CSV with comma, semicolon or tab: a column of paths and one of labels, by their usual names;
      several labels in one cell are joined by ``|``.

    Raises:
        CollectionError: The file cannot be read, or has unknown columns; names them.
    """
    try:
        text = path.read_text(encoding=encoding)
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CollectionError(
            f"{path} is not written in {encoding.removesuffix('-sig')}. Save it as UTF-8, or name "
            "its encoding: --encoding cp932 (Japanese Windows), cp1252 (Western Windows)."
        ) from error
    except LookupError as error:
        raise CollectionError(f"--encoding {encoding} is unknown. Try utf-8 or cp932.") from error
    if path.suffix.lower() in (".jsonl", ".json"):
        return LabelTable(format="Hugging Face", rows=tuple(_json_rows(path, text)))
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    rows = [[cell.strip() for cell in row] for row in rows]
    if not rows or not any(rows[0]):
        raise CollectionError(f"{path} is empty.")
    header = [cell.lower() for cell in rows[0]]
    if any(re.fullmatch(r"x(__\d+)?(:.*)?", cell) for cell in header) and any(
        re.match(r"y(__\d+)?(:|$)", cell) for cell in header
    ):
        return LabelTable(format="Neural Network Console", rows=tuple(_console_rows(path, rows)))
    path_column = _column(header, _PATH_COLUMNS)
    label_column = _column(header, _LABEL_COLUMNS)
    if path_column is None or label_column is None:
        raise CollectionError(
            f"{path} has the columns {', '.join(rows[0])}; it needs one of paths "
            f"({', '.join(_PATH_COLUMNS[:4])} ...) and one of labels "
            f"({', '.join(_LABEL_COLUMNS[:4])} ...)."
        )
    shape = "Hugging Face" if header[path_column] == "file_name" else "CSV"
    found = tuple(
        LabeledPath(
            path=row[path_column],
            labels=_clean(split_labels(row[label_column])) if label_column < len(row) else (),
            line=number,
        )
        for number, row in enumerate(rows[1:], start=2)
        if path_column < len(row) and row[path_column]
    )
    return LabelTable(format=shape, rows=found)


def _delimiter(text: str) -> str:
    first = text.split("\n", 1)[0]
    return max(",;\t", key=lambda mark: (first.count(mark), mark == ","))


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _clean(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for label in (nfc(item.strip()) for item in labels) if label))


def _console_rows(path: Path, rows: Sequence[Sequence[str]]) -> list[LabeledPath]:
    header = rows[0]
    image = next(i for i, cell in enumerate(header) if cell.lower().split(":")[0] == "x")
    flags = {
        i: cell.partition(":")[2]
        for i, cell in enumerate(header)
        if re.match(r"y__\d+:", cell, flags=re.IGNORECASE)
    }
    index = next((i for i, cell in enumerate(header) if cell.lower().split(":")[0] == "y"), None)
    names = _index_names(path)
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) <= image or not row[image]:
            continue
        if index is None:
            labels = [name for i, name in flags.items() if i < len(row) and _number(row[i]) >= 0.5]
        else:
            cell = row[index] if index < len(row) else ""
            labels = [_named(path, number, cell, names)] if names else [cell]
        found.append(LabeledPath(path=row[image], labels=_clean(labels), line=number))
    return found


def _index_names(path: Path) -> list[str]:
    file = path.with_name(_INDEX_NAMES)
    if not file.is_file():
        return []
    return file.read_text(encoding="utf-8-sig").splitlines()


def _named(path: Path, line: int, cell: str, names: Sequence[str]) -> str:
    number = int(cell) if re.fullmatch(r"\d+", cell) else -1
    if not 0 <= number < len(names):
        raise CollectionError(
            f"{path}, line {line}: the label is {cell!r}; {_INDEX_NAMES} beside it names "
            f"0 to {len(names) - 1}."
        )
    return names[number]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return 0.0


def _json_rows(path: Path, text: str) -> list[LabeledPath]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            name = value["file_name"]
        except (ValueError, KeyError, TypeError) as error:
            raise CollectionError(
                f"{path}, line {number} is not a JSON object with a file_name."
            ) from error
        value_labels: object = next((value[key] for key in _LABEL_COLUMNS if key in value), [])
        labels = value_labels if isinstance(value_labels, list) else [value_labels]
        found.append(
            LabeledPath(path=str(name), labels=_clean([str(item) for item in labels]), line=number)
        )
    return found
