"""Calibration error of runs.

    python benchmarks/calibration.py --photos ../shared/photos --cifar ../shared/data/cifar10.zip

Every trial is a ``finetune train`` with default settings (head mode) on a split of its own seed;
photos are decoded and features computed once.

The table has the expected calibration error (ECE, 15 bins) on the test set before and after
calibration, and that of a perfectly calibrated model with the same confidences on as many photos.
The gain is the mean over the splits of before minus after, with its 95 % interval over the splits
(they share photos: it does not include the variation between collections). Pooled: the test
predictions of all splits in one reliability diagram, with less sampling error.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.config_io import resolve
from finetune.demo_data import draw_collection
from finetune.evaluation.calibration import bin_confidence, calibration_gap
from finetune.photos.collection import Collection
from finetune.runs.folder import RunFolder
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.training.train import train

PER_LABEL = 100
"""Photos of each CIFAR-10 label."""


@dataclass(frozen=True)
class Bench:
    """Settings of the benchmark.

    Attributes:
        work: Folder of collections, catalogs and runs.
        settings: Settings of every training.
        trials: Number of splits.
    """

    work: Path
    settings: dict[str, Any]
    trials: int

    def catalog(self, root: Path) -> Path:
        """Returns the path of a collection's catalog."""
        return self.work / "catalogs" / root.name / "catalog.sqlite3"


@dataclass
class Calibration:
    """Calibration errors of one collection, one per split."""

    name: str
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    temperature: list[float] = field(default_factory=list)
    photos: list[int] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)


def without_parts(collection: Collection) -> Collection:
    """Returns the photos without the parts of their folders."""
    photos = tuple(dataclasses.replace(photo, part=None) for photo in collection.photos)
    return dataclasses.replace(collection, photos=photos)


def trained(bench: Bench, root: Path, seed: int) -> RunFolder:
    """Returns a run on a collection with a validation and a test part."""
    config = resolve(
        {}, {**bench.settings, "mode": "head", "seed": seed, "catalog": str(bench.catalog(root))}
    )

    def split(collection: Collection) -> DataSplit:
        return split_collection(without_parts(collection), config.collection, seed=seed)

    run = bench.work / "runs" / root.name
    shutil.rmtree(run, ignore_errors=True)
    return train(root, config, run=str(run), split=split).run


def add_calibration(found: Calibration, run: RunFolder) -> None:
    """Adds the calibration errors of a run."""
    test = run.read(run.metrics_file)["test"]
    found.before.append(test["uncalibrated"]["ece"])
    found.after.append(test["ece"])
    found.floor.append(test["ece_honest"])
    found.accuracy.append(test["top1"])
    found.temperature.append(test["temperature"])
    found.photos.append(test["photos"])
    found.metrics.append(test)


def pooled(found: Calibration, *, calibrated: bool) -> float:
    """Returns the calibration error of the test predictions of all splits together."""
    confidence: list[float] = []
    correct: list[float] = []
    for test in found.metrics:
        source = test if calibrated else test["uncalibrated"]
        for item in source["reliability"]:
            if item["photos"]:
                confidence += [item["confidence"]] * item["photos"]
                right = round(item["accuracy"] * item["photos"])
                correct += [1.0] * right + [0.0] * (item["photos"] - right)
    return calibration_gap(bin_confidence(confidence, correct))


def measure(bench: Bench, root: Path) -> Calibration:
    """Returns the calibration errors over splits."""
    calibration = Calibration(root.name)
    for seed in range(bench.trials):
        add_calibration(calibration, trained(bench, root, seed))
    return calibration


def show_calibration(found: Calibration) -> str:
    """Returns a row of the table."""
    gains = np.subtract(found.before, found.after)
    reach = 1.96 * gains.std(ddof=1) / np.sqrt(len(gains))
    return (
        f"| {found.name} | {statistics.mean(found.photos):.0f} | "
        f"{statistics.mean(found.accuracy):.1%} | {statistics.mean(found.temperature):.2f} | "
        f"{statistics.mean(found.before):.4f} | {statistics.mean(found.after):.4f} | "
        f"{statistics.mean(found.floor):.4f} | {gains.mean():+.4f} ± {reach:.4f} | "
        f"{pooled(found, calibrated=False):.4f} | {pooled(found, calibrated=True):.4f} |"
    )


def collections(work: Path, photos: Path, cifar: Path | None) -> Iterator[Path]:
    """Yields collections, made where missing."""
    yield photos / "hymenoptera"
    birds = work / "birds5"
    if not birds.exists():
        # The photos of val/ are byte copies of these.
        shutil.copytree(photos / "birds5" / "train", birds)
    yield birds
    both = work / "insects and birds"
    if not both.exists():
        shutil.copytree(birds, both)
        for part in ("train", "val"):
            shutil.copytree(photos / "hymenoptera" / part, both, dirs_exist_ok=True)
    yield both
    demo_collection = work / "demo_data"
    if not demo_collection.exists():
        draw_collection(demo_collection, photos_per_species=60, seed=3, size=(600, 400), workers=1)
    yield demo_collection
    if cifar is not None:
        small = work / "cifar10"
        if not small.exists():
            with zipfile.ZipFile(cifar) as archive:
                for name in sorted(archive.namelist()):
                    _, part, label, file = (name.split("/") + [""] * 4)[:4]
                    if part == "test" and file and int(Path(file).stem) < PER_LABEL:
                        target = small / label / file
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(archive.read(name))
        yield small


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument(
        "--work", type=Path, help="folder to keep and reuse; default: a temporary one"
    )
    parser.add_argument("--label-smoothing", type=float, help="instead of the default")
    parser.add_argument("--only", help="names of collections, separated by commas")
    given = parser.parse_args()
    settings: dict[str, Any] = {"model": given.model} | (
        {"weights": given.weights} if given.weights else {}
    )
    if given.label_smoothing is not None:
        settings["label_smoothing"] = given.label_smoothing
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = (given.work or Path(folder)).resolve()
        bench = Bench(work, settings, given.trials)
        roots = [
            root
            for root in collections(work, given.photos.resolve(), given.cifar)
            if given.only is None or root.name in given.only.split(",")
        ]
        print(f"Backbone {given.model}, {given.trials} splits.\n")
        print(
            "| collection | test photos | right | T | ECE before | after | perfect | "
            "gain | pooled before | pooled after |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        for root in roots:
            print(show_calibration(measure(bench, root)), flush=True)


if __name__ == "__main__":
    main()
