"""Compares the rate that lr-find suggests with a third and three times of it, by short trainings.

python benchmarks/lr_find.py FOLDER ... [--photos-per-label 36]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

from finetune.config_io import resolve
from finetune.experiments.lr_find import find_lr
from finetune.training.train import train

SETTINGS = {
    "mode": "full",
    "model": "tf_efficientnet_lite0",
    "size": 64,
    "seed": 0,
    "epochs": 4,
    "validation": 0.3,
}
SUFFIXES = {".jpg", ".jpeg", ".png"}


def sample(folder: Path, target: Path, most: int) -> Path:
    """Copies at most `most` random photos of each label to a new folder and returns it."""
    rng = random.Random(0)
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(file for file in label.iterdir() if file.suffix.lower() in SUFFIXES)
        (target / label.name).mkdir(parents=True)
        for file in rng.sample(files, min(most, len(files))):
            shutil.copy(file, target / label.name)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--photos-per-label", type=int, default=36)
    options = parser.parse_args()
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as name:
            photos = sample(folder, Path(name) / "photos", options.photos_per_label)
            found = find_lr(photos, resolve({}, SETTINGS)).suggestion
            print(folder, found, flush=True)
            for factor in (1 / 3, 1, 3):
                settings = resolve({}, {**SETTINGS, "lr": found.lr * factor})
                run = train(photos, settings, run=f"{factor:.2f}", runs=Path(name) / "runs").run
                rows = [json.loads(line) for line in run.log_file.read_text().splitlines()]
                last = [row for row in rows if "validation_loss" in row][-1]
                loss, accuracy = last["validation_loss"], last["validation_accuracy"]
                rate = found.lr * factor
                print(f"{factor:.2f} {rate:.2e} loss {loss:.3f} right {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
