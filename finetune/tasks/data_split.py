"""Data split: train, validation and test photos of a collection."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.config import CollectionConfig, LabelsConfig
from finetune.data.balance import strata
from finetune.data.samples import Sample, targets_of_samples
from finetune.errors import CollectionError, ConfigError, RunError
from finetune.formatting import count
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.labels import few_photos, label_index
from finetune.photos.split.grouping import Labels, imbalances, photo_groups, summarize_imbalances
from finetune.photos.split.leakage import SplitProof, prove_folds, prove_split
from finetune.photos.split.split import SplitRow, fold_groups, split_groups
from finetune.photos.split.stratify import stratify_groups
from finetune.photos.taxonomy import Taxonomy, read_taxonomy
from finetune.tasks.base import Objective, Task
from finetune.tasks.factory import task_for
from finetune.tasks.single_label import SingleLabel

PARTS: tuple[Part, ...] = ("train", "validation", "test")

FOLDS = 5
"""Folds of a cross-validated head."""

FOLDS_PART = "folds"
"""Name in metrics.json and predictions.csv of photos that were held out in a fold each."""


@dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Train, validation and test photos of a collection.

    Attributes:
        root: The folder that the samples' paths are relative to.
        labels: In class order.
        samples: Photos of each part, sorted by path; the test part may be empty.
        rows: Rows of split.csv.
        proof: Counts of near-duplicates across parts; None for a split that was read back.
        notes: Notes for the user on how it was made.
        task: Single-label or multi-label.
    """

    root: Path
    labels: tuple[str, ...]
    samples: Mapping[Part, tuple[Sample, ...]]
    rows: tuple[SplitRow, ...]
    proof: SplitProof | None
    notes: tuple[str, ...]
    task: Task = SingleLabel()

    @property
    def folds(self) -> NDArray[np.int64] | None:
        """Fold of each training photo, ``(N,)``, -1 for none; None without cross-validation."""
        fold_of = {row.path: row.fold for row in self.rows if row.fold is not None}
        if not fold_of:
            return None
        return np.array([fold_of[sample.path] for sample in self.samples["train"]], np.int64)

    @property
    def evaluated(self) -> Mapping[str, tuple[Sample, ...]]:
        """Photos by the parts that metrics are of: the held-out ones of a cross-validation too."""
        found: dict[str, tuple[Sample, ...]] = {part: self.samples[part] for part in PARTS}
        if self.folds is not None:
            pairs = zip(self.samples["train"], self.folds, strict=True)
            found[FOLDS_PART] = tuple(sample for sample, fold in pairs if fold >= 0)
        return found

    def taxonomy(self) -> Taxonomy | None:
        """Returns the tree of the labels, or None where they have none.

        Raises:
            CollectionError: taxonomy.csv cannot be read or is no tree.
        """
        return None if self.task.multi_label else read_taxonomy(self.root, self.labels)

    def without(self, paths: Container[str]) -> DataSplit:
        """Returns the split without some photos."""
        if not paths:
            return self
        samples = {
            part: tuple(sample for sample in self.samples[part] if sample.path not in paths)
            for part in PARTS
        }
        rows = tuple(row for row in self.rows if row.path not in paths)
        return dataclasses.replace(self, samples=samples, rows=rows)

    @property
    def width(self) -> int | None:
        """Width of the targets, or None if they are indices."""
        return self.task.target_width(self.labels)

    def targets(self, part: str) -> NDArray[np.float32] | NDArray[np.int64]:
        """Returns the targets of a part: ``(N,) int64`` or ``(N, C) float32``."""
        found: NDArray[np.float32] | NDArray[np.int64] = targets_of_samples(
            self.evaluated[part], self.width
        )
        return found

    def groups(self, part: str) -> NDArray[np.str_]:
        """Returns the near-duplicate group of each photo of a part, ``(N,)``."""
        group_of = {row.path: row.group for row in self.rows}
        return np.array([group_of[sample.path] for sample in self.evaluated[part]])

    def objective(self, labels: LabelsConfig, *, label_smoothing: float) -> Objective:
        """Returns the objective of a training on these photos."""
        return self.task.weighted_objective(
            labels, self.targets("train"), len(self.labels), label_smoothing=label_smoothing
        )

    def training_strata(self, labels: LabelsConfig) -> list[NDArray[np.int64]] | None:
        """Returns the strata of balanced sampling, or None if it is not configured."""
        if labels.balance != "sampling":
            return None
        return strata(self.targets("train"), len(self.labels))


def split_collection(
    collection: Collection,
    config: CollectionConfig,
    *,
    seed: int,
    kept: Mapping[str, Part] | None = None,
    labels: LabelsConfig | None = None,
    folds: int | None = None,
) -> DataSplit:
    """Returns the split of a collection: its ready-made folders if any, else a new split.

    Args:
        collection: What a scan found.
        config: Shares, and what must stay together.
        seed: Picks one of many equally good splits.
        kept: Fixed part of photos by digest; see `finetune.training.warm_start`.
        labels: Whether a photo may have several labels; None: each has one.
        folds: Folds of a cross-validation in which all photos train, instead of parts; not with
            ready-made parts or `kept`. A label may then have a single photo.

    Raises:
        CollectionError: Too few labels, or too few photos of one.
        ConfigError: `labels` name something that photos of one label do not have.
    """
    task = task_for(labels or LabelsConfig())
    if folds is not None and config.min_photos is None:
        config = dataclasses.replace(config, min_photos=1)
    usable, found_notes = task.select_photos(collection, config, labels or LabelsConfig())
    notes = list(found_notes)
    photos = usable.photos
    assigned = {photo.digest: photo.group for photo in photos if photo.group}
    groups = photo_groups(photos, group_by=config.group_by, assigned=assigned)
    names = [photo.labels if task.multi_label else photo.labels[0] for photo in photos]
    if folds is not None:
        try:
            held = fold_groups(names, groups, folds=folds, seed=seed)
        except ConfigError as error:
            raise CollectionError(
                f"{collection.root}: no photo can be held out to measure the accuracy, because all "
                "photos of each label look alike. Add different photos, or treat near-duplicates "
                "as different photos with --group-by none."
            ) from error
        folded = tuple(
            SplitRow(
                path=p.path,
                digest=p.digest,
                labels=p.labels,
                group=str(group),
                part="train",
                fold=fold,
            )
            for p, group, fold in zip(photos, groups, held, strict=True)
        )
        proof = prove_folds(folded, photos)
        notes.extend(_fold_notes(proof, folded))
        few = few_photos(photos)
        notes.extend([few] if few else [])
        split = _parts(usable.root, photos, folded, usable.labels, task)
        return dataclasses.replace(split, proof=proof, notes=(*notes, *_tree_note(split)))
    parts: list[Part]
    kept = kept or {}
    if usable.has_parts:
        parts = [kept.get(photo.digest, photo.part or "train") for photo in photos]
        notes.append("The collection has ready-made parts, which are kept.")
        if "validation" not in parts:
            parts = _carve_validation(names, groups, parts, config, seed)
            notes.append("There is no validation folder; a share of train is used for it.")
    else:
        free = [index for index, photo in enumerate(photos) if photo.digest not in kept]
        drawn = _drawn(
            [names[index] for index in free],
            [groups[index] for index in free],
            shares=(config.validation_share, config.test_share),
            seed=seed,
        )
        by_index = dict(zip(free, drawn, strict=True))
        parts = [by_index[i] if i in by_index else kept[p.digest] for i, p in enumerate(photos)]
    rows = tuple(
        SplitRow(path=p.path, digest=p.digest, labels=p.labels, group=str(group), part=part)
        for p, group, part in zip(photos, groups, parts, strict=True)
    )
    if not usable.has_parts:
        short = imbalances(
            names, groups, parts, validation=config.validation_share, test=config.test_share
        )
        notes.extend([summarize_imbalances(short)] if short else [])
    proof = prove_split(rows, photos)
    notes.append(_in_words(proof, parts))
    split = _parts(usable.root, photos, rows, usable.labels, task)
    few = few_photos(photos)
    notes.extend([few] if few else [])
    return dataclasses.replace(split, proof=proof, notes=(*notes, *_tree_note(split)))


def replay_split(
    collection: Collection,
    rows: Sequence[SplitRow],
    labels: tuple[str, ...],
    task: Task | None = None,
    *,
    needed: Sequence[Part] = PARTS,
    left_out: Container[str] = (),
) -> DataSplit:
    """Returns the parts that a split.csv describes; a photo that was moved is found by content.

    Args:
        collection: What a scan found.
        rows: Of split.csv.
        labels: In class order.
        task: Single-label or multi-label; None: one label a photo.
        needed: Parts to return; photos of others may be gone.
        left_out: Paths of photos that may be gone or changed, as the training had left them out.

    Raises:
        RunError: A photo of these parts is gone or has changed; the message names the first.
    """
    by_path = {photo.path: photo for photo in collection.photos}
    by_digest = {photo.digest: photo for photo in collection.photos}
    photos = []
    found_rows = []
    for row in rows:
        if row.part not in needed:
            continue
        photo = by_path.get(row.path)
        if photo is None or photo.digest != row.digest:
            what = "is gone" if photo is None else "has changed"
            photo = by_digest.get(row.digest)
            if photo is None and row.path in left_out:
                # Its place keeps the order of the others the same; reading it will fail again.
                photo = Photo(
                    path=row.path, digest=row.digest, labels=row.labels, width=0, height=0
                )
            if photo is None:
                raise RunError(
                    f"{collection.root / row.path} {what} since the run began, so it cannot be "
                    "resumed exactly. Put the photo back, name the folder that has it with "
                    "--photos, or start a new run."
                )
        photos.append(photo)
        found_rows.append(row)
    return _parts(
        collection.root,
        photos,
        tuple(found_rows),
        labels,
        task or SingleLabel(),
        check=set(needed) == set(PARTS),
    )


def _parts(
    root: Path,
    photos: Sequence[Photo],
    rows: tuple[SplitRow, ...],
    labels: tuple[str, ...],
    task: Task,
    *,
    check: bool = True,
) -> DataSplit:
    index = label_index(labels)

    def target(row: SplitRow) -> int | tuple[int, ...]:
        try:
            return task.target(tuple(index[label] for label in row.labels))
        except (KeyError, ValueError, IndexError) as error:
            raise RunError(
                f"split.csv: the labels {' | '.join(row.labels)!r} of {row.path} do not fit those "
                "of labels.json. Copy the complete run folder again, or start a new run."
            ) from error

    samples: dict[Part, list[Sample]] = {part: [] for part in PARTS}
    # In the order of the paths in split.csv, which stays the same when photos are moved.
    for photo, row in sorted(zip(photos, rows, strict=True), key=lambda pair: pair[1].path):
        samples[row.part].append(
            Sample(
                path=photo.path,
                digest=photo.digest,
                crop=photo.crop,
                target=target(row),
            )
        )
    folded = any(row.fold is not None for row in rows)
    needed: tuple[Part, ...] = ("train",) if folded else ("train", "validation")
    for part in needed if check else ():
        if not samples[part]:
            raise CollectionError(
                f"{root}: no photo is left for {part}. Add photos, or change --validation and "
                "--test."
            )
    # Rows with the paths of today, by which folds are found.
    rows = tuple(
        row if row.path == photo.path else dataclasses.replace(row, path=photo.path)
        for photo, row in zip(photos, rows, strict=True)
    )
    done = {part: tuple(samples[part]) for part in PARTS}
    return DataSplit(
        root=root, labels=labels, samples=done, rows=rows, proof=None, notes=(), task=task
    )


def _fold_notes(proof: SplitProof, rows: Sequence[SplitRow]) -> list[str]:
    held = sum(row.fold != -1 for row in rows)
    folds = len({row.fold for row in rows} - {-1})
    text = (
        f"All {len(rows):,} photos are trained on. The metrics are cross-validated: {folds} folds, "
        "each predicted by a head that was fitted on the others."
    )
    leaks = sum(proof.leaks.values())
    if proof.holds:
        text += f" No near-duplicates in two folds ({proof.groups:,} groups)."
    else:
        have = "photo has" if leaks == 1 else "photos have"
        text += f" {leaks} {have} a near-duplicate in another fold, so the metrics are optimistic."
    notes = [text]
    if held < len(rows):
        never = sorted({label for row in rows if row.fold == -1 for label in row.labels})
        named = ", ".join(repr(label) for label in never[:5])
        more = f" and {len(never) - 5} more" if len(never) > 5 else ""
        one = len(rows) - held == 1
        notes.append(
            f"{len(rows) - held:,} {'photo' if one else 'photos'} of {named}{more} "
            f"{'is' if one else 'are'} only trained on, never held out: the label has no second, "
            "different photo. Metrics say nothing about such a label; add photos of it."
        )
    return notes


def _tree_note(split: DataSplit) -> list[str]:
    taxonomy = split.taxonomy()
    return [] if taxonomy is None else [taxonomy.describe()]


def _in_words(proof: SplitProof, parts: Sequence[Part]) -> str:
    counts = Counter(parts)
    shown = ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts[part])
    if proof.holds:
        return f"Split: {shown}. No near-duplicates on both sides ({proof.groups:,} groups)."
    leaks = sum(proof.leaks.values())
    return (
        f"Split: {shown}. {count(leaks, 'held-out photo has', 'held-out photos have')} a "
        "near-duplicate in train, so the figures are flattered. See: finetune split"
    )


def _drawn(
    names: Sequence[Labels],
    groups: Sequence[str],
    *,
    shares: tuple[float, float],
    seed: int,
) -> list[Part]:
    """Returns the part of each photo, stratified by its label or labels."""
    validation, test = shares
    several = [name for name in names if not isinstance(name, str)]
    if several:
        return stratify_groups(several, groups, validation=validation, test=test, seed=seed)
    return split_groups(names, groups, validation=validation, test=test, seed=seed)


def _carve_validation(
    names: Sequence[Labels],
    groups: Sequence[str],
    parts: Sequence[Part],
    config: CollectionConfig,
    seed: int,
) -> list[Part]:
    where = [i for i, part in enumerate(parts) if part == "train"]
    carved = _drawn(
        [names[i] for i in where],
        [groups[i] for i in where],
        shares=(config.validation_share, 0.0),
        seed=seed,
    )
    result = list(parts)
    for i, part in zip(where, carved, strict=True):
        result[i] = part
    return result
