"""Which photo is held out in which fold, and what trains meanwhile."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config import TrainConfig
from finetune.errors import ConfigError, RunError
from finetune.files import write_atomically
from finetune.photos.collection import Collection, Part
from finetune.photos.labels import join_labels, split_labels
from finetune.photos.split.folds import fold_groups
from finetune.photos.split.leakage import SplitProof, prove_split
from finetune.photos.split.split import SplitRow, split_groups
from finetune.tasks.data_split import DataSplit, replay_split, split_collection, task_for
from finetune.training.prepare import Splitter

NEVER = 0
"""In place of a fold's number: trains in every fold, since its label is one group of photos."""

OWN_TEST = -1
"""In place of a fold's number: of the collection's own test folder, which takes no part."""

_COLUMNS = ["path", "digest", "label", "group", "fold"]


@dataclass(frozen=True, kw_only=True)
class FoldRow:
    """One photo in folds.csv.

    Attributes:
        path: Path below the collection's root.
        digest: Digest of the file's content.
        labels: Its labels.
        group: Key of what shares a fold with it.
        fold: Where it is held out, from 1; or `NEVER` or `OWN_TEST`.
    """

    path: str
    digest: str
    labels: tuple[str, ...]
    group: str
    fold: int


def draw_folds(
    collection: Collection, config: TrainConfig, folds: int
) -> tuple[tuple[FoldRow, ...], tuple[str, ...]]:
    """Returns the fold of each photo that can be used, and what a person must know of it.

    Whole groups only; each label spread as evenly as its groups allow. A collection's own train
    and validation folders are put together; its own test folder takes no part.

    Raises:
        ConfigError: There are fewer groups than folds.
        CollectionError: As `finetune.tasks.data_split.split_collection`.
    """
    seed = config.machine.seed
    whole = split_collection(collection, config.collection, seed=seed, labels=config.labels)
    notes = [note for note in whole.notes if "left out" in note]
    own_test = {row.path for row in whole.rows if collection.has_parts and row.part == "test"}
    rows = [row for row in whole.rows if row.path not in own_test]
    drawn = fold_groups(
        [row.labels for row in rows],
        [row.group for row in rows],
        folds=folds,
        seed=seed,
    )
    empty = set(range(folds)) - set(drawn)
    if empty:
        raise ConfigError(
            f"--folds {folds} is too many: only {folds - len(empty)} of them would hold a photo "
            f"out. Choose --folds {max(2, folds - len(empty))}, or add photos."
        )
    fold_of = {
        row.path: fold + 1 if fold >= 0 else NEVER for row, fold in zip(rows, drawn, strict=True)
    }
    found = tuple(
        FoldRow(
            path=row.path,
            digest=row.digest,
            labels=row.labels,
            group=row.group,
            fold=fold_of.get(row.path, OWN_TEST),
        )
        for row in whole.rows
    )
    return found, (*notes, *_in_words(found, folds))


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
            f"{path} is damaged, so the folds cannot go on. Begin anew with: "
            "finetune train PHOTOS --folds 5"
        ) from error


def fold_splitter(rows: Sequence[FoldRow], config: TrainConfig, fold: int) -> Splitter:
    """Returns a split with one fold as its test part.

    The other folds train, save a share of them (``config.collection.validation``) that chooses the
    epoch and calibrates; the fold itself has no say in anything.
    """
    folds = max(row.fold for row in rows)
    used = [row for row in rows if row.fold != OWN_TEST]

    def split(collection: Collection) -> DataSplit:
        rest = [row for row in used if row.fold != fold]
        inner = _carve(rest, config)
        split_rows = [_split_row(row, inner.get(row.path, "test")) for row in used]
        parts = replay_split(collection, split_rows, _labels(rows), task_for(config.labels))
        proof = _prove(collection, split_rows)
        counts = Counter(row.part for row in split_rows)
        note = (
            f"Fold {fold} of {folds}: {counts['train']:,} train, {counts['validation']:,} "
            f"validation, {counts['test']:,} held out."
        )
        leaks = sum(proof.leaks.values())
        if leaks:
            note += f" {leaks} of them have a near-duplicate in train; the figures are flattered."
        return dataclasses.replace(parts, proof=proof, notes=(note,))

    return split


def final_splitter(rows: Sequence[FoldRow], config: TrainConfig) -> Splitter:
    """Returns the split of the network that is to be used: nothing is put aside for a test.

    As in the folds, a share of the photos chooses the epoch and calibrates, so that what the folds
    have measured is what is done. The collection's own test part stays what it is.
    """
    used = [row for row in rows if row.fold != OWN_TEST]

    def split(collection: Collection) -> DataSplit:
        inner = _carve(used, config)
        split_rows = [_split_row(row, inner.get(row.path, "test")) for row in rows]
        parts = replay_split(collection, split_rows, _labels(rows), task_for(config.labels))
        counts = Counter(row.part for row in split_rows)
        note = (
            f"The final model uses all {len(used):,} photos: {counts['train']:,} to learn from, "
            f"{counts['validation']:,} to choose the epoch and calibrate by."
        )
        return dataclasses.replace(parts, proof=_prove(collection, split_rows), notes=(note,))

    return split


def _carve(rows: Sequence[FoldRow], config: TrainConfig) -> dict[str, Part]:
    """Returns train or validation by path, for photos that are not held out."""
    parts = split_groups(
        [row.labels for row in rows],
        [row.group for row in rows],
        validation=config.collection.validation,
        test=0,
        seed=config.machine.seed,
    )
    return {row.path: part for row, part in zip(rows, parts, strict=True)}


def _split_row(row: FoldRow, part: Part) -> SplitRow:
    return SplitRow(path=row.path, digest=row.digest, labels=row.labels, group=row.group, part=part)


def _labels(rows: Sequence[FoldRow]) -> tuple[str, ...]:
    return tuple(sorted({label for row in rows for label in row.labels}))


def _prove(collection: Collection, rows: Sequence[SplitRow]) -> SplitProof:
    by_path = {photo.path: photo for photo in collection.photos}
    photos = [by_path[row.path] for row in rows]
    return prove_split(photos, [row.group for row in rows], [row.part for row in rows])


def _in_words(rows: Sequence[FoldRow], folds: int) -> list[str]:
    held = [row for row in rows if row.fold > 0]
    groups = len({row.group for row in held})
    said = [
        f"{folds} folds of {len(held):,} photos ({groups:,} groups, each whole "
        "in one fold); every photo is held out once."
    ]
    never = [row for row in rows if row.fold == NEVER]
    if never:
        labels = sorted({label for row in never for label in row.labels})
        named = ", ".join(f"'{label}'" for label in labels[:5]) + (
            f" and {len(labels) - 5} more" if len(labels) > 5 else ""
        )
        one = len(never) == 1
        said[0] = said[0].replace("every photo", "each of them")
        said.append(
            f"{len(never):,} {'photo' if one else 'photos'} of {named} "
            f"{'trains' if one else 'train'} in every fold and {'is' if one else 'are'} held out "
            "in none: without them too little of a label would be left to learn from."
        )
    own = sum(row.fold == OWN_TEST for row in rows)
    if own:
        said.append(
            f"The collection's own test folder ({own:,} photos) takes no part in the folds."
        )
    return said
