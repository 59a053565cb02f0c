"""Label tables: files of paths and labels, as other programs write them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import CollectionError
from finetune.photos.decode.photo_names import is_photo_name
from finetune.photos.labels import nfc, split_labels
from finetune.spreadsheets import unguard

_PATH_COLUMNS = (
    "path",
    "file_name",
    "filename",
    "file",
    "image",
    "image_path",
    "photo",
    "name",
    "filepath",
    "file_path",
    "image_name",
)
_FOLDER_COLUMNS = ("folder", "relativepath", "relative_path", "directory", "subfolder", "path")
"""Columns of the folder of a file, where the file's own column has none."""

_LABEL_COLUMNS = (
    "labels",
    "label",
    "class",
    "class_name",
    "category",
    "species",
    "target",
    "choice",
    "ground_truth",
)
_NAME_COLUMNS = ("class_name", "label_name", "category_name", "label_text", "species", "classname")
"""Columns of names, preferred where the label's column has numbers only."""

_NAME_FILES = ("labels.txt", "classes.txt")
"""Files beside a table with the name of each class number, one a line."""

_NULLS = frozenset(("", "None", "null", "NULL", "nan", "NaN", "NAN", "<NA>", "N/A", "#N/A", "NaT"))
"""Cells by which other programs write that there is no value."""


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
        notes: Choices that were made in reading it, a sentence each.
    """

    format: str
    rows: tuple[LabeledPath, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    cells: tuple[str, ...]

    def cell(self, column: int) -> str:
        return self.cells[column] if column < len(self.cells) else ""


def read_label_table(path: Path, *, encoding: str | None = None) -> LabelTable:
    """Returns the labels in a file; recognizes its format.

    - Neural Network Console: ``x:image,y:label`` with the label's index (its name is the line of
      that index in ``labels.txt`` beside the file, where there is one) or text, or one column
      ``y__0:NAME`` of 0 and 1 a label.
    - Hugging Face: ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and ``label``.
    - CSV with comma, semicolon or tab: a column of paths and one of labels, by their usual names;
      several labels in one cell are joined by ``|`` or are JSON, as Label Studio writes them. The
      folder of a file may have a column of its own. Numbers are replaced by the names in another
      column or in ``labels.txt`` or ``classes.txt`` beside the file.

    Cells such as ``nan`` and ``null`` are no label.

    Args:
        path: The file.
        encoding: Of the file and of the names beside it; None: UTF-8, or UTF-16 with its mark.

    Raises:
        CollectionError: The file cannot be read, or has unknown columns; names them.
    """
    text = _read_text(path, encoding)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _json_table(path, text, encoding)
    rows = _csv_rows(path, text)
    if not rows:
        raise CollectionError(f"{path} is empty.")
    heading, rows = rows[0], rows[1:]
    header = [_column_name(cell) for cell in heading.cells]
    is_x = any(re.fullmatch(r"x(__\d+)?(:.*)?", cell) for cell in header)
    if is_x and any(re.match(r"y(__\d+)?(:|$)", cell) for cell in header):
        names = _names_beside(path, encoding)
        found = tuple(_console_rows(path, heading, rows, names))
        return LabelTable(format="Neural Network Console", rows=found)
    path_column, folder_column = _path_columns(header, rows)
    label_column = _column(header, (*_LABEL_COLUMNS, *_NAME_COLUMNS))
    if path_column is None or label_column is None:
        raise CollectionError(
            f"{path} has the columns {', '.join(cell.strip() for cell in heading.cells)}; it needs "
            f"one of paths ({', '.join(_PATH_COLUMNS[:4])} ...) and one of labels "
            f"({', '.join(_LABEL_COLUMNS[:4])} ...)."
        )
    notes = []
    numbers = _are_numbers(row.cell(label_column) for row in rows)
    named = [name for name in _NAME_COLUMNS if name in header and name != header[label_column]]
    if numbers and named and not _are_numbers(row.cell(header.index(named[0])) for row in rows):
        notes.append(f"Labels are from the column {named[0]}; {header[label_column]} has numbers.")
        label_column, numbers = header.index(named[0]), False
    names = _names_beside(path, encoding) if numbers else {}
    if names:
        notes.append(f"Class numbers were replaced by the names in {next(iter(names))}.")
    found = tuple(
        LabeledPath(
            path=_joined(
                "" if folder_column is None else row.cell(folder_column).strip(),
                unguard(_one_line(path, row, path_column)),
            ),
            labels=_labels(
                path, row.line, _cell_labels(unguard(_one_line(path, row, label_column))), names
            ),
            line=row.line,
        )
        for row in rows
        if row.cell(path_column).strip()
    )
    shape = "Hugging Face" if header[path_column] == "file_name" else "CSV"
    return LabelTable(format=shape, rows=found, notes=tuple(notes))


def _read_text(path: Path, encoding: str | None) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}.") from error
    used = encoding or "utf-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        used = "utf-16"
    elif used.lower().replace("_", "-") in ("utf-8", "utf8"):
        used = "utf-8-sig"
    try:
        return content.decode(used)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CollectionError(
            f"{path}, line {line} is not written in {used.removesuffix('-sig')}. Save it as UTF-8, "
            "or name its encoding: --encoding cp932 (Japanese Windows), cp1252 (Western Windows)."
        ) from error
    except LookupError as error:
        raise CollectionError(f"--encoding {encoding} is unknown. Try utf-8 or cp932.") from error


def _csv_rows(path: Path, text: str) -> list[_Row]:
    """Returns the rows that are not blank, without Excel's line ``sep=;``."""
    lines = text.split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip()), 0)
    told = re.fullmatch(r"\s*\"?sep=(.)\"?[,;\t\s]*", lines[first], flags=re.IGNORECASE)
    if told:
        first += 1
    delimiter = told[1] if told else _delimiter(lines[first] if first < len(lines) else "")
    source = io.StringIO("\n".join(lines[first:]), newline="")
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    line = first + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(_Row(line=line, cells=tuple(cells)))
                _check_row(path, rows[0], rows[-1])
            line = first + reader.line_num + 1
    except csv.Error as error:
        opened = "expected after" not in str(error)
        reason = "a quote is opened and never closed" if opened else "text follows a closing quote"
        raise CollectionError(f"{path}, line {line}: {reason}. Correct that line.") from error
    return rows


def _check_row(path: Path, heading: _Row, row: _Row) -> None:
    cells = [cell.strip() for cell in row.cells]
    while cells and not cells[-1]:
        cells.pop()
    if len(cells) > len(heading.cells):
        raise CollectionError(
            f"{path}, line {row.line} has {len(cells)} cells; the heading has "
            f"{len(heading.cells)}. Put a cell with the separator in it in quotes."
        )


def _one_line(path: Path, row: _Row, column: int) -> str:
    cell = row.cell(column)
    if "\n" in cell.strip():
        raise CollectionError(
            f"{path}, line {row.line}: a quote is opened and not closed on the same line. Correct "
            "that line."
        )
    return cell


def _delimiter(heading: str) -> str:
    outside = re.sub(r'"[^"]*"', "", heading)
    return max(",;\t", key=lambda mark: (outside.count(mark), mark == ","))


def _column_name(cell: str) -> str:
    """Returns a heading in the form of the known ones: ``class_name`` for "Class name"."""
    return cell.strip().lower().replace(" ", "_").replace("-", "_")


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _path_columns(header: Sequence[str], rows: Sequence[_Row]) -> tuple[int | None, int | None]:
    """Returns the columns of the file and of its folder, if that has one."""
    found = [header.index(name) for name in _PATH_COLUMNS if name in header]
    files = [column for column in found if _are_photos(rows, column)]
    file = next(iter(files or found), None)
    folders = [header.index(name) for name in _FOLDER_COLUMNS if name in header]
    folder = next((column for column in folders if column != file and column not in files), None)
    return file, folder


def _are_photos(rows: Sequence[_Row], column: int) -> bool:
    names = (row.cell(column).strip() for row in rows)
    return all(is_photo_name(re.split(r"[/\\]", name)[-1]) for name in names if name)


def _joined(folder: str, file: str) -> str:
    """Returns the path of a file whose folder has a column of its own."""
    name = file.strip().replace("\\", "/")
    parent = folder.replace("\\", "/").rstrip("/")
    if not parent or name.startswith(("/", f"{parent}/")):
        return file
    return f"{parent}/{name}"


def _cell_labels(cell: str) -> Sequence[str]:
    """Returns the labels in a cell: joined by ``|``, a JSON list, or Label Studio's choices."""
    if cell.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return split_labels(cell)
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            value = value["choices"]
        if isinstance(value, list):
            return [_json_text(item) for item in value if not _is_null(item)]
    return split_labels(cell)


def _are_numbers(cells: Iterator[str]) -> bool:
    """Returns whether all cells that are not empty are whole numbers, and there are any."""
    filled = [cell.strip() for cell in cells if cell.strip() not in _NULLS]
    return bool(filled) and all(_class_number(cell) is not None for cell in filled)


def _class_number(cell: str) -> int | None:
    found = re.fullmatch(r"(\d{1,9})(\.0*)?", cell.strip())
    return int(found[1]) if found else None


def _clean(labels: Sequence[str]) -> tuple[str, ...]:
    names = (nfc(label.strip()) for label in labels)
    return tuple(dict.fromkeys(name for name in names if name not in _NULLS))


def _labels(
    path: Path, line: int, labels: Sequence[str], names: dict[str, list[str]]
) -> tuple[str, ...]:
    """Returns labels with class numbers replaced by the names of a file, if any."""
    found = _clean(labels)
    for file, lines in names.items():
        return _clean([_named(path, line, label, file, lines) for label in found])
    return found


def _named(path: Path, line: int, cell: str, file: str, names: Sequence[str]) -> str:
    number = _class_number(cell)
    if number is None or number >= len(names):
        raise CollectionError(
            f"{path}, line {line}: the label is {cell!r}; {file} beside it names "
            f"0 to {len(names) - 1}."
        )
    return names[number]


def _names_beside(path: Path, encoding: str | None) -> dict[str, list[str]]:
    """Returns ``{file name: names}`` of the first file of class names beside a table, if any."""
    for name in _NAME_FILES:
        file = path.with_name(name)
        if file.is_file() and file != path:
            lines = re.split(r"\r\n|\r|\n", _read_text(file, encoding).rstrip("\r\n"))
            return {name: lines}
    return {}


def _console_rows(
    path: Path, heading: _Row, rows: Sequence[_Row], names: dict[str, list[str]]
) -> Iterator[LabeledPath]:
    header = [cell.strip() for cell in heading.cells]
    variables = [cell.lower().partition(":")[0] for cell in header]
    image = next(i for i, name in enumerate(variables) if re.fullmatch(r"x(__0)?", name))
    index = next((i for i, name in enumerate(variables) if name == "y"), None)
    flags = {
        i: header[i].partition(":")[2] or _flag_name(path, int(name[3:]), names)
        for i, name in enumerate(variables)
        if index is None and re.fullmatch(r"y__\d+", name)
    }
    for row in rows:
        if not row.cell(image).strip():
            continue
        if index is None:
            found = [name for i, name in flags.items() if _is_set(path, row, i, header[i])]
            labels = _clean(found)
        else:
            labels = _labels(path, row.line, [row.cell(index)], names)
        yield LabeledPath(path=row.cell(image), labels=labels, line=row.line)


def _flag_name(path: Path, number: int, names: dict[str, list[str]]) -> str:
    for lines in names.values():
        if number < len(lines):
            return lines[number]
    raise CollectionError(
        f"{path}: the column y__{number} has no name. Name it y__{number}:LABEL, or write the "
        f"labels into {_NAME_FILES[0]} beside the file, one a line."
    )


def _is_set(path: Path, row: _Row, column: int, name: str) -> bool:
    cell = row.cell(column).strip()
    try:
        return float(cell or 0) >= 0.5
    except ValueError:
        raise CollectionError(
            f"{path}, line {row.line}: {name} is {cell!r}; it must be a number from 0 to 1."
        ) from None


def _json_table(path: Path, text: str, encoding: str | None) -> LabelTable:
    entries = list(_json_entries(path, text))
    values = [_json_labels(entry) for _, entry in entries]
    numbers = _are_numbers(iter([label for labels in values for label in labels]))
    names = _names_beside(path, encoding) if numbers else {}
    rows = tuple(
        LabeledPath(
            path=str(_json_path(path, line, entry)),
            labels=_labels(path, line, labels, names),
            line=line,
        )
        for (line, entry), labels in zip(entries, values, strict=True)
    )
    notes = [f"Class numbers were replaced by the names in {file}." for file in names]
    return LabelTable(format="Hugging Face", rows=rows, notes=tuple(notes))


def _json_entries(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yields line number and value of JSON lines, or number and entry of a JSON list."""
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CollectionError(f"{path} is not JSON: {error}.") from error
        yield from enumerate(entries, start=1)
        return
    # Not str.splitlines: text in JSON may hold U+2028 and other separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _no_json_row(path, number) from error


def _no_json_row(path: Path, line: int) -> CollectionError:
    return CollectionError(f"{path}, line {line} is not a JSON object with a file_name.")


def _json_path(path: Path, line: int, entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise _no_json_row(path, line)
    name = next((entry[key] for key in ("file_name", *_PATH_COLUMNS) if key in entry), None)
    if not isinstance(name, str) or not name.strip():
        raise _no_json_row(path, line)
    return name


def _json_labels(entry: Any) -> list[str]:
    """Returns the labels of a JSON object as text; names are preferred to numbers."""
    if not isinstance(entry, dict):
        return []
    keys = [key for key in (*_LABEL_COLUMNS, *_NAME_COLUMNS) if entry.get(key) is not None]
    found: list[list[str]] = []
    for key in keys:
        value = entry[key]
        items = value if isinstance(value, list) else [value]
        found.append([_json_text(item) for item in items if not _is_null(item)])
    texts = [labels for labels in found if any(_class_number(label) is None for label in labels)]
    return next(iter(texts or found), [])


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _json_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
