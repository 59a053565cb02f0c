"""``finetune split --audit``: effect of near-duplicates in train on a run's accuracy."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.cli.console import make_table, output

if TYPE_CHECKING:
    from finetune.photos.collection import Collection, Part, Photo
    from finetune.photos.split.leakage import LeakAudit
    from finetune.photos.split.split import SplitRow


def show_audit(collection: Collection, run: str, seed: int) -> None:
    """Prints a run's accuracy on held-out photos with and without a near-duplicate in train."""
    from finetune.evaluation.intervals import wilson
    from finetune.evaluation.predictions import read_predictions
    from finetune.photos.split.leakage import audit_split, duplicates_in_training
    from finetune.photos.split.split import read_split
    from finetune.runs.folder import find_run

    folder = find_run(run)
    rows = read_split(folder.split_file)
    predictions = read_predictions(folder.predictions_file)
    photos = photos_of(collection, rows)
    known = {photo.path: photo for photo in photos}
    rows = tuple(row for row in rows if row.path in known)
    correct = {item.path: item.correct for item in predictions if item.path in known}
    result = audit_split(photos, [row.part for row in rows], correct)
    table = make_table(
        "held-out photos",
        "photos",
        "correct",
        "accuracy",
        "95 % interval",
        right=("photos", "correct", "accuracy", "95 % interval"),
    )
    for name, tally in (
        ("with a near-duplicate in train", result.with_duplicate),
        ("without a near-duplicate", result.without_duplicate),
    ):
        interval = wilson(tally.correct, tally.photos)
        table.add_row(
            name,
            f"{tally.photos:,}",
            f"{tally.correct:,}",
            "" if tally.accuracy is None else f"{tally.accuracy:.1%}",
            "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}",
        )
    output.print(table)
    verdict = _verdict(result)
    output.text(verdict)
    loose = _ungrouped_parts(photos, rows, seed)
    duplicates = int(duplicates_in_training(photos, loose).sum())
    held_out = sum(part != "train" for part in loose)
    output.text(
        f"A split without groups would put near-duplicates of {duplicates:,} of {held_out:,} "
        "held-out photos into train."
    )
    output.document(
        {
            "with_duplicate": dataclasses.asdict(result.with_duplicate),
            "without_duplicate": dataclasses.asdict(result.without_duplicate),
            "flattered_points": result.flattered_points,
            "ungrouped": {"held_out": held_out, "with_duplicate": duplicates},
        }
    )


def _verdict(result: LeakAudit) -> str:
    points = result.flattered_points
    if result.with_duplicate.photos == 0:
        return "No held-out photo has a near-duplicate in train, so the accuracy of the run stands."
    if points is None:
        return "Every held-out photo has a near-duplicate in train, so no accuracy is unbiased."
    return f"Near-duplicates raise the accuracy of the run by {points:.1f} points."


def photos_of(collection: Collection, rows: Sequence[SplitRow]) -> list[Photo]:
    """Returns the photos of rows, in their order; warns of photos that are gone or have changed."""
    by_path = {photo.path: photo for photo in collection.photos}
    found = [
        by_path[row.path]
        for row in rows
        if row.path in by_path and by_path[row.path].digest == row.digest
    ]
    if len(found) < len(rows):
        output.warn(f"{len(rows) - len(found):,} photos are gone or have changed since the split.")
    return found


def _ungrouped_parts(photos: Sequence[Photo], rows: Sequence[SplitRow], seed: int) -> list[Part]:
    """Returns the parts of a split with the same shares but without groups."""
    from finetune.photos.split.split import split_groups

    counts = Counter(row.part for row in rows)
    shares = {part: counts[part] / max(len(rows), 1) for part in ("validation", "test")}
    return split_groups(
        [row.labels for row in rows],
        [photo.path for photo in photos],
        validation=shares["validation"],
        test=shares["test"],
        seed=seed,
    )
