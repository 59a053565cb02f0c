"""finetune's head and full network compared with scikit-learn on the same features.

    python benchmarks/probe.py --shared ../shared --model mobilenetv2_100 --weights FILE [--full]

Each set is split three times into train, validation and test, near-duplicates together. The linear
probe is scikit-learn's logistic regression on the standardized features of the training photos; C
is selected on validation by log loss, and the minimum is found (--tol: scikit-learn's default of
1e-4 stops earlier, where a photo may fall on either side). finetune runs with its defaults and the
model. Both are evaluated on the test photos. `hymenoptera-parts` is hymenoptera with its val/ as
the test photos: only train/ is split, three times, into train and validation.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetune import train
from finetune.config_io import resolve
from finetune.data.dataset import PhotoDataset, Sample
from finetune.data.pixel_cache import PixelCache
from finetune.files import collection_cache_dir
from finetune.models.factory import ModelRequest, create_model
from finetune.models.features import FeatureCache
from finetune.photos.scan import scan
from finetune.training.events import Event, Note
from finetune.training.train import RunResult

CS = np.logspace(-5, 2, 15)
EACH = 60
"""Pictures a label that are taken of the large sets."""


def gather(shared: Path, folder: Path) -> list[Path]:
    """Writes the sets with a folder per label, without copies, and returns their folders."""
    for name in ("hymenoptera", "birds5"):
        seen = set()
        for file in sorted((shared / "photos" / name).glob("*/*/*.jp*g")):
            content = file.read_bytes()
            digest = hashlib.blake2b(content).digest()
            if digest not in seen:
                seen.add(digest)
                label, part = file.parent.name, file.parent.parent.name
                write(folder / name / label / file.name, content)
                if name == "hymenoptera":
                    judged = "train" if part == "train" else "test"
                    write(folder / f"{name}-parts" / judged / label / file.name, content)
    for name in ("cifar10", "mnist"):
        counts: dict[str, int] = {}
        with zipfile.ZipFile(shared / "data" / f"{name}.zip") as archive:
            for entry in sorted(archive.namelist()):
                parts = entry.split("/")
                label = parts[-2] if len(parts) > 2 else ""
                pictured = entry.endswith((".jpg", ".png")) and any("test" in p for p in parts)
                if pictured and counts.get(label, 0) < EACH:
                    counts[label] = counts.get(label, 0) + 1
                    write(folder / name / label / parts[-1], archive.read(entry))
    return sorted(path for path in folder.iterdir() if path.is_dir())


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def probe(photos: Path, run: Path, model: str, weights: str, *, tol: float) -> tuple[float, float]:
    """Returns the probe's accuracy on the test photos of a run's split, and the selected C."""
    loaded = create_model(ModelRequest(name=model, weights=weights))
    cache_dir = collection_cache_dir(photos)
    with (run / "split.csv").open(encoding="utf-8") as file:
        part_of = {row["path"]: row["part"] for row in csv.DictReader(file)}
    collection = [photo for photo in scan(photos).photos if photo.path in part_of]
    labels = sorted({photo.labels[0] for photo in collection})
    samples = [
        Sample(path=p.path, digest=p.digest, crop=p.crop, target=labels.index(p.labels[0]))
        for p in collection
    ]
    with (
        contextlib.closing(PixelCache(cache_dir, loaded.preprocessing, limit_gb=10)) as cache,
        contextlib.closing(
            FeatureCache(cache_dir, loaded.module.eval(), loaded.preprocessing)
        ) as kept,
    ):
        dataset = PhotoDataset(photos, samples, cache)
        kept.fill(dataset)
        features = kept.read(kept.keys(dataset)).numpy()
    parts = np.array([part_of[photo.path] for photo in collection])
    scaler = StandardScaler().fit(features[parts == "train"])
    x = {part: scaler.transform(features[parts == part]) for part in set(parts)}
    y = {part: dataset.targets[parts == part] for part in set(parts)}
    best: tuple[float, float, Any] | None = None
    for c in CS:
        fitted = LogisticRegression(C=c, max_iter=50_000, tol=tol).fit(x["train"], y["train"])
        loss = log_loss(fitted.predict_proba(x["validation"]), y["validation"])
        if best is None or loss < best[0]:
            best = (loss, c, fitted)
    assert best is not None
    return float((best[2].predict(x["test"]) == y["test"]).mean()), best[1]


def log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    return float(-np.log(probabilities[np.arange(len(targets)), targets].clip(1e-12)).mean())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="Holds photos/ and data/.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", help="Names of sets; not given: all.")
    parser.add_argument("--tol", type=float, default=1e-8, help="Of the probe's solver.")
    parser.add_argument("--full", action="store_true", help="Train the full network as well.")
    parser.add_argument("--size", type=int, help="Side of the input in pixels.")
    parser.add_argument("--epochs", type=int, help="Epochs of the full network.")
    parser.add_argument("--backbone-lr-scale", type=float, help="Of the full network.")
    parser.add_argument("--work", type=Path, help="Keeps sets and caches for the next time.")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sets = gather(arguments.shared, folder / "sets")
        sets = [s for s in sets if not arguments.sets or s.name in arguments.sets]
        runs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        full = " full network | notes |" if arguments.full else " notes |"
        print(f"| set | seed | test photos | probe (C) | finetune |{full}", flush=True)
        print("|---|--:|--:|--:|--:|" + ("--:|" if arguments.full else "") + "---|", flush=True)
        for photos in sets:
            of_set(arguments, photos, runs)


def stop_with(result: RunResult) -> None:
    """Exits if a training was interrupted, as its metrics would not count."""
    if result.interrupted:
        raise KeyboardInterrupt


def of_set(arguments: argparse.Namespace, photos: Path, runs: Path) -> None:
    """Prints the rows of a set."""
    shared = {"model": arguments.model, "weights": arguments.weights, "size": arguments.size}
    figures: dict[str, list[float]] = {"probe": [], "head": [], "full": []}
    for seed in range(arguments.seeds):
        said: list[str] = []

        def callback(event: Event, said: list[str] = said) -> None:
            if isinstance(event, Note) and event.text.startswith("L2 strength"):
                said.append(event.text.partition(" of")[0])

        config = resolve({}, {**shared, "seed": seed})
        result = train(photos, config, run=f"{photos.name}-{seed}", runs=runs, callback=callback)
        stop_with(result)
        figures["head"].append(result.metrics["test"]["top1"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accuracy, c = probe(
                photos,
                result.run.path,
                arguments.model,
                arguments.weights,
                tol=arguments.tol,
            )
        figures["probe"].append(accuracy)
        extra = ""
        if arguments.full:
            flags = {**shared, "seed": seed, "mode": "full", "epochs": arguments.epochs}
            flags["backbone_lr_scale"] = arguments.backbone_lr_scale
            whole = train(photos, resolve({}, flags), run=f"{photos.name}-full-{seed}", runs=runs)
            stop_with(whole)
            figures["full"].append(whole.metrics["test"]["top1"])
            share = whole.run.read(whole.run.config_file).get("share_of_training", 1.0)
            extra = f" {figures['full'][-1]:.1%} ({share:.0%} of the way) |"
        print(
            f"| {photos.name} | {seed} | {result.metrics['test']['photos']} | {accuracy:.1%} "
            f"({c:.0e}) | {figures['head'][-1]:.1%} |{extra} {', '.join(said)} |",
            flush=True,
        )
    means = {name: float(np.mean(values)) for name, values in figures.items() if values}
    extra = f" {means['full']:.2%} |" if arguments.full else ""
    print(
        f"| **{photos.name}** | mean | | {means['probe']:.2%} | {means['head']:.2%} |{extra} "
        f"{'at least as accurate' if means['head'] >= means['probe'] else 'less accurate'} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
