"""The library in twenty lines: draw a collection, train on it, predict new photos.

    python examples/train_and_predict.py [FOLDER]

For your own photos, replace the drawn folder; the rest stays the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from finetune import Predictor, TrainConfig, train
from finetune.config import PixelsConfig, TrainingConfig
from finetune.demo_data import draw_collection, draw_unseen
from finetune.training.events import EpochDone, Event, Note


def report(event: Event) -> None:
    """Prints each note, and the accuracy on photos held out in a fold."""
    if isinstance(event, Note):
        print(event.text)
    if isinstance(event, EpochDone):
        print(f"folds: {event.validation_accuracy:.0%} right")


def main(folder: Path, photos_per_species: int = 24) -> None:
    """Runs the example in `folder`, which must be new or empty."""
    draw_collection(
        folder / "photos", species=4, photos_per_species=photos_per_species, size=(480, 320)
    )
    config = TrainConfig(
        pixels=PixelsConfig(fit="pad"),
        training=TrainingConfig(mode="head"),
    )
    result = train(folder / "photos", config, runs=folder / "runs", callback=report)
    low, high = result.headline["top1_interval"]
    print(f"held out: {result.headline['top1']:.0%} right ({low:.0%} to {high:.0%})")

    predictor = Predictor.load(result.run.path)
    for photo in draw_unseen(folder / "unseen", count=3, species=4, size=(480, 320)):
        prediction = predictor(folder / "unseen" / photo.path)
        print(f"{photo.species}: {prediction.label} ({prediction.ranked[0].probability:.0%})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
