"""How many points of a run's accuracy come from photos that it has as good as seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.cli.console import make_table, output

if TYPE_CHECKING:
    from finetune.photos.collection import Collection, Part, Photo
    from finetune.photos.split.leakage import LeakAudit
    from finetune.photos.split.split import SplitRow


def show_audit(collection: Collection, run: str, seed: int) -> None:
    """Prints how a run does on held-out photos with and without a twin in training."""
    from finetune.evaluation.intervals import wilson
    from finetune.evaluation.predictions import read_predictions
    from finetune.photos.split.leakage import audit_split, twins_in_training
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
        "right",
        "accuracy",
        "95 % interval",
        right=("photos", "right", "accuracy", "95 % interval"),
    )
    for name, tally in (
        ("with a twin in training", result.with_twin),
        ("without", result.without_twin),
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
    twins = int(twins_in_training(photos, loose).sum())
    held_out = sum(part != "train" for part in loose)
    output.text(
        f"A split without groups would give {twins:,} of {held_out:,} held-out photos a twin in "
        "training."
    )
    output.document(
        {
            "with_twin": {"photos": result.with_twin.photos, "correct": result.with_twin.correct},
            "without_twin": {
                "photos": result.without_twin.photos,
                "correct": result.without_twin.correct,
            },
            "flattered_points": result.flattered_points,
            "ungrouped": {"held_out": held_out, "with_twin": twins},
        }
    )


def _verdict(result: LeakAudit) -> str:
    points = result.flattered_points
    if result.with_twin.photos == 0:
        return "No held-out photo has a twin in training: the run's accuracy is not flattered."
    if points is None:
        return "Every held-out photo has a twin in training: the run has no honest figure at all."
    return f"Twins raise the run's accuracy by {points:.1f} points."


def photos_of(collection: Collection, rows: Sequence[SplitRow]) -> list[Photo]:
    """Returns the photos of rows, in their order; those that are gone or changed are said."""
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
    """Returns the parts that photos of the same shares would get, split one by one."""
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
