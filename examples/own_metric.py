"""One's own figure, watched while a network trains: which label is found least often.

    python examples/own_metric.py [FOLDER]

A metric is a function of logits and targets; a listener is a function of events.
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
    """Returns the recall of the label that is found least often."""
    right = logits.argmax(axis=1) == targets
    return float(min(right[targets == label].mean() for label in np.unique(targets)))


def report(event: Event) -> None:
    """Prints every fifth epoch."""
    if isinstance(event, EpochDone) and event.epoch % 5 == 0:
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
        epochs=10,
        runs=folder / "runs",
        metrics={"worst_recall": worst_recall},
        callback=report,
    )
    figures = result.metrics["test"]["labels"]
    label = min(figures, key=lambda name: figures[name]["recall"] or 0)
    print(f"least often found on test: {label}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
