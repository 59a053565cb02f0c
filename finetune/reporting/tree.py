"""Tree of the labels in a report: how often each node is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.errors import RunError
from finetune.evaluation.intervals import Interval, wilson
from finetune.evaluation.predictions import Prediction
from finetune.photos.taxonomy import Taxonomy
from finetune.reporting.run_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class TreeRow:
    """Node of the tree, in the order of a table of contents.

    Attributes:
        name: The node.
        depth: Levels above it.
        level: Name of its level.
        photos: Photos of its labels.
        found: Those predicted to have one of its labels.
        interval: Of their share; None without photos.
    """

    name: str
    depth: int
    level: str
    photos: int
    found: int
    interval: Interval | None


def tree_rows(record: RunRecord, predictions: Sequence[Prediction]) -> list[TreeRow]:
    """Returns the nodes of a run's tree with the photos of a part; empty without a tree.

    Args:
        record: The run.
        predictions: Of the part.

    Raises:
        RunError: It is a tree of other labels.
    """
    if not record.calibration.get("hierarchy"):
        return []
    taxonomy = Taxonomy.from_dict(record.calibration["hierarchy"])
    if taxonomy.labels != record.labels:
        raise RunError(
            f"{record.name}: calibration.json has a tree of other labels than labels.json. Copy "
            "the complete run folder again."
        )
    path_of = dict(zip(taxonomy.labels, taxonomy.paths, strict=True))
    counts: dict[tuple[str, ...], list[int]] = {}
    for path in sorted(taxonomy.paths):
        for depth in range(len(path)):
            counts.setdefault(path[: depth + 1], [0, 0])
    for row in predictions:
        truth, predicted = path_of[row.label], path_of[row.predicted]
        for depth in range(len(truth)):
            place = counts[truth[: depth + 1]]
            place[0] += 1
            place[1] += truth[depth] == predicted[depth]
    return [
        TreeRow(
            name=path[-1],
            depth=len(path) - 1,
            level=taxonomy.levels[len(path) - 1],
            photos=photos,
            found=found,
            interval=wilson(found, photos),
        )
        for path, (photos, found) in counts.items()
        # A label with fewer ancestors than others is listed once.
        if len(path) == 1 or path[-1] != path[-2]
    ]
