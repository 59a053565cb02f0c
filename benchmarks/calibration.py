"""Calibration error of runs, and precision of their threshold for unknown photos.

    python benchmarks/calibration.py --photos ../shared/photos --cifar ../shared/data/cifar10.zip

Every trial is a ``finetune train`` with default settings (head mode) on a split of its own seed;
photos are decoded and features computed once.

The first table has the expected calibration error (ECE, 15 bins) on the test set before and after
calibration, and that of a perfectly calibrated model with the same confidences on as many photos.
The gain is the mean over the splits of before minus after, with its 95 % interval over the splits
(they share photos: it does not include the variation between collections). Pooled: the test
predictions of all splits in one reliability diagram, with less sampling error.

The second table leaves labels out of the collection (`--left-out` of them, drawn anew in each
trial), trains on the others, and predicts the test photos together with photos of the left-out
labels, which are a fifth of all. "holds" is the share of trials in which the upper end of the 95 %
Wilson interval of the measured precision reaches the target. The other rows use photos of
unrelated subjects instead of the left-out labels.
"""

from __future__ import annotations

import argparse
import contextlib
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
from numpy.typing import NDArray

from finetune.config_io import resolve
from finetune.data.dataset import PhotoDataset, Sample
from finetune.data.pixel_cache import PixelCache
from finetune.demo_data import draw_collection
from finetune.evaluation.calibration import bin_confidence, calibration_gap
from finetune.evaluation.intervals import wilson
from finetune.files import collection_cache_dir
from finetune.models.features import FeatureCache
from finetune.photos.collection import Collection, Photo
from finetune.photos.scan import scan
from finetune.runs.folder import RunFolder
from finetune.runs.loading import TrainedRun, open_trained
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.training.linear_probe.probe import head_logits
from finetune.training.results import UNKNOWN_SHARE
from finetune.training.train import train

PER_LABEL = 100
"""Photos of each CIFAR-10 label."""

UNRELATED = 300
"""Photos of unrelated subjects."""


@dataclass(frozen=True)
class Bench:
    """Settings of the benchmark.

    Attributes:
        work: Folder of collections, catalogs and runs.
        settings: Settings of every training.
        trials: Number of splits.
        left_out: Number of labels left out; None: 2, or 3 of ten labels or more.
    """

    work: Path
    settings: dict[str, Any]
    trials: int
    left_out: int | None

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


@dataclass
class Precision:
    """Target and measured precision, one per trial."""

    target: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    holds: list[bool] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)


def without_parts(collection: Collection, labels: frozenset[str]) -> Collection:
    """Returns the photos of some labels, without the parts of their folders."""
    photos = tuple(
        dataclasses.replace(photo, part=None)
        for photo in collection.photos
        if set(photo.labels) <= labels
    )
    return dataclasses.replace(collection, photos=photos)


def trained(bench: Bench, root: Path, labels: frozenset[str], seed: int) -> RunFolder:
    """Returns a run on the photos of some labels of a collection."""
    config = resolve(
        {}, {**bench.settings, "mode": "head", "seed": seed, "catalog": str(bench.catalog(root))}
    )

    def split(collection: Collection) -> DataSplit:
        return split_collection(without_parts(collection, labels), config.collection, seed=seed)

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


def features_of_photos(
    bench: Bench, root: Path, photos: list[Photo], opened: TrainedRun
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns a run's logits and features of photos; uses the feature cache."""
    cache_dir = collection_cache_dir(root, bench.catalog(root))
    samples = [Sample(path=p.path, digest=p.digest, crop=p.crop, target=0) for p in photos]
    with (
        contextlib.closing(PixelCache(cache_dir, opened.preprocessing, limit_gb=10)) as cache,
        contextlib.closing(
            FeatureCache(cache_dir, opened.module, opened.preprocessing)
        ) as features,
    ):
        dataset = PhotoDataset(root, samples, cache)
        features.fill(dataset)
        keys = features.keys(dataset)
        head: Any = opened.module.get_classifier()  # type: ignore[operator]
        return head_logits(head, features, keys), features.read(keys).numpy()


def measure(
    bench: Bench, root: Path, unrelated: Path | None
) -> tuple[Calibration, Precision, Precision]:
    """Returns the calibration errors over splits, and the precision of the thresholds.

    Precision is measured for left-out labels and for unrelated photos, if these are given.
    """
    collection = scan(root, catalog=bench.catalog(root))
    others = list(scan(unrelated, catalog=bench.catalog(unrelated)).photos) if unrelated else []
    labels = sorted(collection.labels)
    count = 0 if unrelated is None else bench.left_out or (3 if len(labels) >= 10 else 2)
    calibration = Calibration(root.name)
    by_left_out, by_unrelated = Precision(), Precision()
    for seed in range(bench.trials):
        rng = np.random.default_rng((seed, 0xF0E))
        left_out = {labels[index] for index in rng.permutation(len(labels))[:count]}
        run = trained(bench, root, frozenset(set(labels) - left_out), seed)
        add_calibration(calibration, run)
        if unrelated is None:
            continue
        opened = open_trained(run)
        limit = opened.unknown
        if limit is None or limit.threshold is None:
            continue
        known = {row["path"]: row for row in run_predictions(run) if row["part"] == "test"}
        photos = [photo for photo in collection.photos if photo.path in known]
        held_out = [photo for photo in collection.photos if set(photo.labels) <= left_out]
        accepted = ~rejected(bench, root, photos, opened)
        right = np.array([known[p.path]["correct"].lower() in ("1", "true") for p in photos])
        number = round(UNKNOWN_SHARE / (1 - UNKNOWN_SHARE) * len(photos))
        for result, place, unknown in (
            (by_left_out, root, held_out),
            (by_unrelated, unrelated, others),
        ):
            wrong = ~rejected(bench, place, unknown, opened)
            drawn = wrong[rng.permutation(len(unknown))[:number]]
            successes, total = int((accepted & right).sum()), int(accepted.sum() + drawn.sum())
            interval = wilson(successes, total)
            result.target.append(limit.precision)
            result.measured.append(successes / total if total else 1.0)
            result.holds.append(interval is None or interval[1] >= limit.precision)
            result.accepted.append(float(accepted.mean()))
            result.rejected.append(1 - float(wrong.mean()))
    return calibration, by_left_out, by_unrelated


def run_predictions(run: RunFolder) -> list[dict[str, str]]:
    """Returns the rows of a run's predictions.csv."""
    import csv

    with run.predictions_file.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def rejected(
    bench: Bench, root: Path, photos: list[Photo], opened: TrainedRun
) -> NDArray[np.bool_]:
    """Returns a mask of the photos that a run predicts as "none of these"."""
    limit = opened.unknown
    assert limit is not None
    logits, features = features_of_photos(bench, root, photos, opened)
    distances = limit.distances(features) if limit.needs_features else None
    return limit.is_unknown(limit.scores(logits, distances, temperature=opened.temperature))


def show_calibration(found: Calibration) -> str:
    """Returns a row of the first table."""
    gains = np.subtract(found.before, found.after)
    reach = 1.96 * gains.std(ddof=1) / np.sqrt(len(gains))
    return (
        f"| {found.name} | {statistics.mean(found.photos):.0f} | "
        f"{statistics.mean(found.accuracy):.1%} | {statistics.mean(found.temperature):.2f} | "
        f"{statistics.mean(found.before):.4f} | {statistics.mean(found.after):.4f} | "
        f"{statistics.mean(found.floor):.4f} | {gains.mean():+.4f} ± {reach:.4f} | "
        f"{pooled(found, calibrated=False):.4f} | {pooled(found, calibrated=True):.4f} |"
    )


def show_precision(name: str, found: Precision, trials: int) -> str:
    """Returns a row of the second table."""
    if not found.target:
        return f"| {name} | 0 of {trials} | | | | | | |"
    excess = np.subtract(found.measured, found.target)
    return (
        f"| {name} | {len(found.target)} of {trials} | {statistics.mean(found.target):.3f} | "
        f"{statistics.mean(found.measured):.3f} | {excess.min():+.2f} | "
        f"{sum(found.holds)} of {len(found.holds)} | {statistics.mean(found.accepted):.0%} | "
        f"{statistics.mean(found.rejected):.0%} |"
    )


def collections(work: Path, photos: Path, cifar: Path | None) -> Iterator[tuple[Path, bool]]:
    """Yields collections, made where missing, and whether labels can be left out of each."""
    yield photos / "hymenoptera", False
    birds = work / "birds5"
    if not birds.exists():
        # The photos of val/ are byte copies of these.
        shutil.copytree(photos / "birds5" / "train", birds)
    yield birds, False
    both = work / "insects and birds"
    if not both.exists():
        shutil.copytree(birds, both)
        for part in ("train", "val"):
            shutil.copytree(photos / "hymenoptera" / part, both, dirs_exist_ok=True)
    yield both, True
    demo_collection = work / "demo_data"
    if not demo_collection.exists():
        draw_collection(demo_collection, photos_per_species=60, seed=3, size=(600, 400), workers=1)
    yield demo_collection, True
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
        yield small, True


def unrelated_photos(work: Path, photos: Path) -> Path:
    """Returns a folder of photos of unrelated subjects."""
    folder = work / "unrelated"
    if not folder.exists():
        folder.mkdir(parents=True)
        files = sorted((photos / "unlabeled").iterdir())
        for file in files[:: max(1, len(files) // UNRELATED)][:UNRELATED]:
            shutil.copy2(file, folder / file.name)
    return folder


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--left-out", type=int)
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
        bench = Bench(work, settings, given.trials, given.left_out)
        unrelated = unrelated_photos(work, given.photos.resolve())
        found = [
            (root, can_leave_out)
            for root, can_leave_out in collections(work, given.photos.resolve(), given.cifar)
            if given.only is None or root.name in given.only.split(",")
        ]
        print(f"Backbone {given.model}, {given.trials} splits.\n")
        print(
            "| collection | test photos | right | T | ECE before | after | perfect | "
            "gain | pooled before | pooled after |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        rows = []
        for root, can_leave_out in found:
            calibration, left_out, other = measure(
                bench, root, unrelated if can_leave_out else None
            )
            print(show_calibration(calibration), flush=True)
            if can_leave_out:
                name = root.name
                rows.append(show_precision(f"{name}, labels left out", left_out, given.trials))
                rows.append(show_precision(f"{name}, unrelated subjects", other, given.trials))
        print(
            "\n| collection, unknown photos | threshold found | target | measured | worst | "
            "holds | known accepted | unknown rejected |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
