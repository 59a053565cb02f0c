"""Label tables of other programs: CSV, Neural Network Console, Hugging Face.

`finetune.photos.datasets.import_labels` matches the rows to the photos of a collection.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import CollectionError
from finetune.photos.labels import nfc, split_labels

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
