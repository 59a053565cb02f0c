"""CSV files for spreadsheets: text in any script, and no cell that runs as a formula.

Excel takes a CSV file for UTF-8 only by its byte order mark, and it runs a cell that begins with
``=``, ``+``, ``-`` or ``@`` as a formula. Labels and file names come from other people's folders,
so such text gets an apostrophe before it (OWASP, "CSV Injection"), which reading removes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.files import write_atomically

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def guard(text: str) -> str:
    """Returns `text` as a cell that no spreadsheet runs as a formula; `unguard` is the inverse.

    Example:
        >>> guard("=1+1"), guard("heron")
        ("'=1+1", 'heron')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(cell: str) -> str:
    """Returns the text of a cell made by `guard`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    """Writes rows atomically as UTF-8 CSV with a byte order mark; text must be guarded already.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    content = text.getvalue().encode("utf-8-sig", errors="surrogateescape")
    return write_atomically(path, lambda file: file.write(content))


def read_csv(path: Path) -> list[list[str]]:
    """Returns the rows of a UTF-8 CSV file, with or without a byte order mark, still guarded."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))
