"""Photos to review: those that a run got wrong or doubts, or those that a table names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import CollectionError
from finetune.spreadsheets import read_csv, unguard

DOUBT = 0.6
"""A held-out photo whose prediction is less probable is reviewed although it is right."""

_NAME_COLUMNS = ("photo", "path", "file", "filename")


@dataclass(frozen=True, kw_only=True)
class Review:
    """Photos to review.

    Attributes:
        digests: Of their content.
        paths: Below the collection's root, for photos whose digest is not known.
        names: File names without a folder, as in the review list of `finetune serve`.
    """

    digests: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def includes(self, path: str, digest: str | None) -> bool:
        """Returns whether a photo is to be reviewed."""
        name = path.rpartition("/")[2]
        return digest in self.digests or path in self.paths or name in self.names


def read_review(source: str, root: Path) -> Review:
    """Returns the photos to review.

    Args:
        source: A run: held-out photos that it got wrong or doubts. Or a CSV, such as one of
            ``finetune predict --csv``: photos that are not sure, or all where it has no status.
        root: The collection's folder.

    Raises:
        CollectionError: The table names no photo, or cannot be read.
        RunError: There is no such run, or it has no predictions.
    """
    path = Path(source)
    if path.suffix.lower() in {".csv", ".txt"}:
        return _of_table(path, root)
    from finetune.evaluation.predictions import read_predictions
    from finetune.runs.folder import find_run

    rows = read_predictions(find_run(source).predictions_file)
    doubted = [row for row in rows if not row.correct or row.probability < DOUBT]
    return Review(
        digests=frozenset(row.digest for row in doubted),
        paths=frozenset(row.path for row in doubted if not row.digest),
    )


def _of_table(path: Path, root: Path) -> Review:
    try:
        rows = [row for row in read_csv(path) if row and row[0].strip()]
    except (OSError, ValueError) as error:
        raise CollectionError(f"--review {path} cannot be read: {error}.") from error
    if not rows:
        raise CollectionError(f"--review {path} names no photo.")
    header = [cell.strip().lower() for cell in rows[0]]
    column = next((header.index(name) for name in _NAME_COLUMNS if name in header), None)
    status = header.index("status") if column is not None and "status" in header else None
    names = set()
    for row in rows if column is None else rows[1:]:
        if status is None or len(row) <= status or row[status] != "sure":
            name = unguard(row[column or 0]).strip()
            names.add(_below(name, root))
    bare = frozenset(name for name in names if "/" not in name and not (root / name).exists())
    return Review(paths=frozenset(names), names=bare)


def _below(name: str, root: Path) -> str:
    """Returns the path of a photo below the root, as the collection spells it."""
    if not Path(name).is_absolute() and (root / name).exists():
        return Path(name).as_posix()
    absolute, folder = os.path.realpath(name), os.path.realpath(root)
    if absolute.startswith(folder + os.sep):
        return Path(os.path.relpath(absolute, folder)).as_posix()
    return Path(name).as_posix()
