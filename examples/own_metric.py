"""Training with an own metric, the lowest recall of a label, printed by a callback.

    python examples/own_metric.py [FOLDER]

A metric is a function of logits and targets; a callback is a function of an event.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune import train
from finetune.demo_data import draw_collection
from finetune.training.events import EpochDone, Event


def worst_recall(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Returns the lowest recall of a label."""
    right = logits.argmax(axis=1) == targets
    return float(min(right[targets == label].mean() for label in np.unique(targets)))


def report(event: Event) -> None:
    """Prints the metric of every epoch; a head that is fitted on cached features has one."""
    if isinstance(event, EpochDone):
        print(f"epoch {event.epoch}: worst recall {event.metrics['worst_recall']:.0%}")


def main(folder: Path, photos_per_species: int = 24) -> None:
    """Runs the example in `folder`, which must be new or empty."""
    draw_collection(
        folder / "photos", species=3, photos_per_species=photos_per_species, size=(240, 160)
    )
    result = train(
        folder / "photos",
        fit="pad",
        mode="head",
        runs=folder / "runs",
        metrics={"worst_recall": worst_recall},
        callback=report,
    )
    scores = result.headline["labels"]
    label = min(scores, key=lambda name: scores[name]["recall"] or 0)
    print(f"lowest recall: {label}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
