"""Folds of a cross-validation, and the splits of their trainings."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config import TrainConfig
from finetune.errors import ConfigError, RunError
from finetune.files import write_atomically
from finetune.photos.collection import Collection, Part
from finetune.photos.labels import join_labels, split_labels
from finetune.photos.split.leakage import prove_split
from finetune.photos.split.split import SplitRow, fold_groups, split_groups
from finetune.tasks.data_split import DataSplit, replay_split, split_collection
from finetune.tasks.factory import task_for
from finetune.training.prepare import Splitter

NEVER = 0
"""Fold number of photos that train in every fold, since their label is a single group."""

OWN_TEST = -1
"""Fold number of photos in the collection's own test folder, which no fold uses."""

_COLUMNS = ["path", "digest", "label", "group", "fold"]


@dataclass(frozen=True)
class FoldRow:
    """One photo in folds.csv.

    Attributes:
        group: Key of its group, which is in one fold.
        fold: The fold that holds it out, from 1; or `NEVER` or `OWN_TEST`.
    """

    path: str
    digest: str
    labels: tuple[str, ...]
    group: str
    fold: int


def assign_folds(
    collection: Collection, config: TrainConfig, folds: int
) -> tuple[tuple[FoldRow, ...], tuple[str, ...]]:
    """Returns the fold of each usable photo, and notes for the user.

    Groups are not divided, and each label is spread as evenly as its groups allow. Ready-made
    train and validation folders are merged; no fold uses a ready-made test folder.

    Raises:
        ConfigError: There are fewer groups than folds.
        CollectionError: As `finetune.tasks.data_split.split_collection`.
    """
    seed = config.machine.seed
    full_split = split_collection(collection, config.collection, seed=seed, labels=config.labels)
    notes = [note for note in full_split.notes if "left out" in note]
    own_test = {row.path for row in full_split.rows if collection.has_parts and row.part == "test"}
    rows = [row for row in full_split.rows if row.path not in own_test]
    drawn = fold_groups(
        [row.labels for row in rows],
        [row.group for row in rows],
        folds=folds,
        seed=seed,
    )
    empty = set(range(folds)) - set(drawn)
    if empty:
        raise ConfigError(
            f"--folds {folds} is too many: only {folds - len(empty)} of them would have a photo. "
            f"Choose --folds {max(2, folds - len(empty))}, or add photos."
        )
    fold_of = {
        row.path: fold + 1 if fold >= 0 else NEVER for row, fold in zip(rows, drawn, strict=True)
    }
    found = tuple(
        FoldRow(row.path, row.digest, row.labels, row.group, fold_of.get(row.path, OWN_TEST))
        for row in full_split.rows
    )
    return found, (*notes, *_notes(found, folds))


def write_folds(path: Path, rows: Sequence[FoldRow]) -> Path:
    """Writes folds.csv, sorted by path, and returns `path`; raises StorageError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in sorted(rows, key=lambda row: row.path):
        writer.writerow([row.path, row.digest, join_labels(row.labels), row.group, row.fold])
    content = text.getvalue().encode("utf-8", "surrogateescape")
    return write_atomically(path, lambda file: file.write(content))


def read_folds(path: Path) -> tuple[FoldRow, ...]:
    """Returns the rows of a folds.csv.

    Raises:
        RunError: The file cannot be read or is no folds.csv.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        return tuple(
            FoldRow(
                path=line["path"],
                digest=line["digest"],
                labels=split_labels(line["label"]),
                group=line["group"],
                fold=int(line["fold"]),
            )
            for line in csv.DictReader(io.StringIO(text, newline=""))
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is damaged, so the cross-validation cannot be resumed. "
            "Start a new one with: finetune train PHOTOS --folds 5"
        ) from error


def fold_splitter(rows: Sequence[FoldRow], config: TrainConfig, fold: int) -> Splitter:
    """Returns a split with one fold as its test part.

    Of the other folds, a share (``--validation``) selects the epoch and calibrates;
    the rest trains.
    """
    folds = max(row.fold for row in rows)
    used = [row for row in rows if row.fold != OWN_TEST]

    def split(collection: Collection) -> DataSplit:
        parts = _validation_split([row for row in used if row.fold != fold], config)
        found = _split(collection, rows, [_split_row(row, parts) for row in used], config)
        counts = Counter(row.part for row in found.rows)
        note = (
            f"Fold {fold} of {folds}: {counts['train']:,} train, {counts['validation']:,} "
            f"validation, {counts['test']:,} held out."
        )
        leaks = sum(found.proof.leaks.values()) if found.proof else 0
        if leaks:
            note += f" {leaks} of these have a near-duplicate in train, so results are optimistic."
        return dataclasses.replace(found, notes=(note,))

    return split


def final_splitter(rows: Sequence[FoldRow], config: TrainConfig) -> Splitter:
    """Returns the split of the final model, which holds out no photos for a test.

    As in the folds, a share of the photos selects the epoch and calibrates, so that the folds'
    results apply to it. The collection's own test folder stays the test part.
    """
    used = [row for row in rows if row.fold != OWN_TEST]

    def split(collection: Collection) -> DataSplit:
        parts = _validation_split(used, config)
        found = _split(collection, rows, [_split_row(row, parts) for row in rows], config)
        counts = Counter(row.part for row in found.rows)
        note = (
            f"The final model uses all {len(used):,} photos: {counts['train']:,} for training, "
            f"{counts['validation']:,} to select the epoch and calibrate."
        )
        return dataclasses.replace(found, notes=(note,))

    return split


def _validation_split(rows: Sequence[FoldRow], config: TrainConfig) -> dict[str, Part]:
    """Returns train or validation by path, of photos that are not held out."""
    parts = split_groups(
        [row.labels for row in rows],
        [row.group for row in rows],
        validation=config.collection.validation_share,
        test=0,
        seed=config.machine.seed,
    )
    return {row.path: part for row, part in zip(rows, parts, strict=True)}


def _split_row(row: FoldRow, parts: Mapping[str, Part]) -> SplitRow:
    part = parts.get(row.path, "test")
    return SplitRow(path=row.path, digest=row.digest, labels=row.labels, group=row.group, part=part)


def _split(
    collection: Collection,
    rows: Sequence[FoldRow],
    split_rows: Sequence[SplitRow],
    config: TrainConfig,
) -> DataSplit:
    labels = tuple(sorted({label for row in rows for label in row.labels}))
    found = replay_split(collection, split_rows, labels, task_for(config.labels))
    by_path = {photo.path: photo for photo in collection.photos}
    photos = [by_path[row.path] for row in split_rows]
    return dataclasses.replace(found, proof=prove_split(split_rows, photos))


def _notes(rows: Sequence[FoldRow], folds: int) -> list[str]:
    held = [row for row in rows if row.fold > 0]
    never = [row for row in rows if row.fold == NEVER]
    own = sum(row.fold == OWN_TEST for row in rows)
    groups = len({row.group for row in held})
    each = "each of them" if never else "every photo"
    notes = [
        f"{folds} folds of {len(held):,} photos ({groups:,} groups, each in one "
        f"fold); {each} is held out once."
    ]
    if never:
        labels = sorted({label for row in never for label in row.labels})
        named = ", ".join(f"'{label}'" for label in labels[:5]) + (
            f" and {len(labels) - 5} more" if len(labels) > 5 else ""
        )
        one = len(never) == 1
        notes.append(
            f"{len(never):,} {'photo' if one else 'photos'} of {named} "
            f"{'is' if one else 'are'} never held out and {'trains' if one else 'train'} in every "
            "fold: without them, too few photos of a label would be left for training."
        )
    if own:
        notes.append(f"No fold uses the collection's own test folder ({own:,} photos).")
    return notes
