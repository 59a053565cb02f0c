"""Train, validation and test parts: stratified by label, whole groups only, the same each time.

All photos of a group (near-duplicates, a burst, a folder) go to the same part. The random order
comes from a hash of the seed and the group's key, so that a split depends on the photos and the
seed alone, not on their order or the machine.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from finetune.errors import CollectionError, ConfigError
from finetune.files import can_be_path, write_atomically
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.labels import join_labels, split_labels
from finetune.photos.split.grouping import GroupPool, Labels
from finetune.spreadsheets import guard, unguard

TEST_FROM_GROUPS = 4
"""With fewer groups than this a label gives none to the test part: with one for validation and one
for the test, too little would be left to learn from."""

_COLUMNS = ["path", "digest", "label", "group", "part"]


@dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One photo in split.csv.

    Attributes:
        path: Path below the collection's root.
        digest: Digest of the file's content.
        labels: Its labels; the file joins several by ``|``.
        group: Key shared by photos that must be in the same part.
        part: train, validation or test.
        fold: With cross-validation, the fold that holds the photo out, from 0; -1: none does.
    """

    path: str
    digest: str
    labels: tuple[str, ...]
    group: str
    part: Part
    fold: int | None = None


def split_groups(
    labels: Sequence[Labels],
    groups: Sequence[Hashable],
    *,
    validation: float,
    test: float,
    seed: int,
) -> list[Part]:
    """Returns the part of each photo.

    Each label gets its share of photos in each part, as nearly as whole groups allow. Before that
    come two rules: each label keeps a training photo, and each label of two groups or more has a
    validation photo (of `TEST_FROM_GROUPS` or more, also a test photo, where `test` is above 0).
    Groups with several labels can make this impossible; see
    `finetune.photos.split.grouping.imbalances`.

    Args:
        labels: A label, or a tuple of them, for each photo.
        groups: A group for each photo. Keys that stay the same from one run to the next (a digest,
            a folder) make the split the same; see
            `finetune.photos.near_duplicates.groups.group_keys`.
        validation: Share of each label's photos for validation, in [0, 1).
        test: Share of each label's photos for the test, in [0, 1).
        seed: Chooses among equally good splits.

    Raises:
        ConfigError: Shares that are negative or leave nothing to train on.

    Example:
        >>> split_groups(["a"] * 4, [1, 1, 2, 3], validation=0.25, test=0, seed=0)
        ['train', 'train', 'validation', 'train']
    """
    check_shares(validation, test)
    pool = GroupPool(labels, groups, seed)
    parts: dict[Hashable, Part] = {}
    # Validation is drawn first: where groups are scarce, it needs them more than the test does.
    if validation > 0:
        reserve_from = TEST_FROM_GROUPS if test > 0 else None
        _draw(pool, parts, "validation", validation, 2, reserve_from=reserve_from)
    if test > 0:
        _draw(pool, parts, "test", test, TEST_FROM_GROUPS)
    return [parts.get(group, "train") for group in groups]


def check_shares(validation: float, test: float) -> None:
    """Raises ConfigError for shares that are negative or leave nothing to train on."""
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            f"--validation {validation:g} and --test {test:g} must be 0 or more and leave "
            "something to train on."
        )


def write_split(path: Path, rows: Sequence[SplitRow]) -> Path:
    """Writes split.csv, sorted by path, and returns `path`; raises StorageError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    folded = any(row.fold is not None for row in rows)
    writer.writerow([*_COLUMNS, "fold"] if folded else _COLUMNS)
    for row in sorted(rows, key=lambda row: row.path):
        fold = [row.fold] if folded else []
        cells = (row.path, row.digest, join_labels(row.labels), row.group, row.part)
        writer.writerow([*map(guard, cells), *fold])
    # File names that are no UTF-8 come from the file system as surrogates and go back the same way.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    return write_atomically(path, lambda file: file.write(content))


def read_split(path: Path) -> tuple[SplitRow, ...]:
    """Returns the rows of a split.csv.

    Raises:
        CollectionError: The file cannot be read or is not a split.csv; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return _rows_of(path, reader)
    except csv.Error as error:
        raise CollectionError(f"{path}, line {reader.line_num}: {error}.") from error


def _rows_of(path: Path, reader: csv.DictReader[str]) -> tuple[SplitRow, ...]:
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise CollectionError(
            f"{path} is not a split.csv: it has no column {', '.join(missing)}. "
            "Make a new one with: finetune split"
        )
    rows = []
    seen = set()
    for line in reader:
        row = {name: unguard(line[name] or "") for name in _COLUMNS}
        if row["part"] not in get_args(Part):
            raise CollectionError(
                f"{path}, line {reader.line_num}: the part is {row['part']!r}; "
                f"it must be one of {', '.join(get_args(Part))}."
            )
        if not can_be_path(row["path"]) or row["path"] in seen:
            found = f"{row['path']!r} is listed twice"
            if not can_be_path(row["path"]):
                found = "no file can have this path" if row["path"] else "the path is empty"
            raise CollectionError(f"{path}, line {reader.line_num}: {found}.")
        seen.add(row["path"])
        rows.append(
            SplitRow(
                path=row["path"],
                digest=row["digest"],
                labels=split_labels(row["label"]),
                group=row["group"],
                part=cast(Part, row["part"]),
                fold=_fold_of(path, reader.line_num, line.get("fold")),
            )
        )
    return tuple(rows)


def _fold_of(path: Path, line: int, text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise CollectionError(f"{path}, line {line}: the fold {text!r} is no number.") from error


def _draw(
    pool: GroupPool,
    parts: dict[Hashable, Part],
    part: Part,
    share: float,
    minimum: int,
    *,
    reserve_from: int | None = None,
) -> None:
    """Moves groups from train to `part` until each label has its share there."""
    targets = pool.targets(share, minimum)
    taken: Counter[str] = Counter()

    def spare(group: Hashable) -> bool:
        return pool.spare(group, reserve_from=reserve_from)

    def take(group: Hashable) -> None:
        parts[group] = part
        for label, photos in pool.content(group):
            taken[label] += photos
            pool.training_groups[label] -= 1

    for label in pool.rarest_first():
        target = targets[label]
        for group in pool.groups_of(label):
            if group in parts or not spare(group):
                continue
            photos = pool.photos(group, label)
            # Only what brings the count nearer to its target: a burst of 30 is passed over where
            # 5 photos are wanted, and the next single photo is taken.
            if abs(taken[label] + photos - target) < abs(taken[label] - target):
                take(group)
        if taken[label] == 0 and len(pool.groups_of(label)) >= minimum:
            rest = [g for g in pool.groups_of(label) if g not in parts and spare(g)]
            if rest:
                take(min(rest, key=lambda group: pool.photos(group, label)))


def fold_groups(
    labels: Sequence[Labels], groups: Sequence[Hashable], *, folds: int, seed: int
) -> list[int]:
    """Returns the fold, from 0 to `folds` - 1, in which each photo is held out.

    Whole groups only; each label spread as evenly over the folds as its groups allow. A label whose
    photos are one group would be missing from training when held out, so it gets -1: it trains in
    every fold and is held out in none. The same holds for what shares a group with such a label.

    Raises:
        ConfigError: Fewer than 2 folds, or no label has groups enough for any to be held out.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds} must be at least 2.")
    # Photos without a label are spread as those of a label are.
    pool = GroupPool([entry or ("",) for entry in labels], groups, seed)
    fold_of: dict[Hashable, int] = {}
    load = [0] * folds
    for label in pool.rarest_first():
        members = pool.groups_of(label)
        if len(members) == 1:
            fold_of[members[0]] = -1
            continue
        held = [0] * folds
        for group in members:
            if fold_of.get(group, -1) >= 0:
                held[fold_of[group]] += pool.photos(group, label)
        # Largest first: the small ones then level what the large ones left uneven.
        for group in sorted(members, key=lambda group: -pool.photos(group, label)):
            if group in fold_of:
                continue
            chosen = min(range(folds), key=lambda fold: (held[fold], load[fold], fold))
            fold_of[group] = chosen
            held[chosen] += pool.photos(group, label)
            load[chosen] += pool.size(group)
    _spread_single_folds(pool, fold_of)
    if all(fold < 0 for fold in fold_of.values()):
        raise ConfigError(
            f"--folds {folds} cannot be made: no label has two groups of photos. "
            "Add photos, or use --group-by none."
        )
    return [fold_of[group] for group in groups]


def fold_parts(fold_of: Sequence[int], fold: int) -> list[Part]:
    """Returns the part of each photo while one fold is held out for validation."""
    return ["validation" if held == fold else "train" for held in fold_of]


def _spread_single_folds(pool: GroupPool, fold_of: dict[Hashable, int]) -> None:
    """Takes groups out of the folds until no label loses all its photos in any one of them."""
    changed = True
    while changed:
        changed = False
        for label in pool.rarest_first():
            members = pool.groups_of(label)
            folds = {fold_of[group] for group in members}
            if len(folds) == 1 and folds != {-1}:
                fold_of[members[0]] = -1
                changed = True


def with_split(
    collection: Collection, rows: Sequence[SplitRow]
) -> tuple[Collection, tuple[str, ...]]:
    """Returns the photos of a split with its labels and parts, and those that are gone.

    Photos are found by their content where they were renamed.

    Args:
        collection: The photos as they are now.
        rows: The split.
    """
    by_path = {photo.path: photo for photo in collection.photos}
    by_digest: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in collection.photos:
        by_digest[photo.digest].append(photo)
    found: list[Photo] = []
    missing: list[str] = []
    used: set[str] = set()
    for row in rows:
        now = by_path.get(row.path)
        if now is None or now.digest != row.digest:
            now = next((p for p in by_digest[row.digest] if p.path not in used), None)
        if now is None:
            missing.append(row.path)
            continue
        used.add(now.path)
        found.append(replace(now, labels=row.labels, part=row.part))
    return replace(collection, photos=tuple(found)), tuple(missing)
