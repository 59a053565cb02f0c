"""Crop proposals, label errors and the linear classifier, measured on drawn photos.

    python benchmarks/curation.py [--seed 11] [--photos 10] [--only crops|errors|head]
        [--model NAME --weights FILE]

Draws a collection in a temporary folder. Needs scikit-learn for comparison.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.curation.embedding import DEFAULT_BACKBONE, Embedder, load_backbone
from finetune.curation.label_errors import find_label_errors
from finetune.curation.logistic_regression import DEFAULT_L2, fit_classifier
from finetune.curation.saliency import SubjectFinder
from finetune.demo_data import DemoCollection, draw_collection
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups

ROUNDS = 3


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--photos", type=int, default=10, help="of each of the 8 species")
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--weights")
    parser.add_argument("--only", choices=("crops", "errors", "head"))
    options = parser.parse_args()
    backbone = load_backbone(options.model, options.weights)
    with tempfile.TemporaryDirectory() as folder:
        demo_collection = draw_collection(
            Path(folder) / "photos",
            photos_per_species=options.photos,
            seed=options.seed,
            size=(900, 600),
            workers=1,
        )
        for name, measure in (
            ("crops", lambda: crops_table(demo_collection, backbone)),
            ("errors", lambda: errors_table(demo_collection, backbone)),
            ("head", head_table),
        ):
            if options.only in (None, name):
                heading = f"Backbone {options.model}, collection of seed {options.seed}."
                lines = [*([] if name == "head" else [heading, ""]), *measure()]
                print("\n".join(lines), flush=True)


def crops_table(demo_collection: DemoCollection, backbone: LoadedModel) -> list[str]:
    """Returns rows: share of the drawn boxes of birds that the crops of each method contain."""
    finder = SubjectFinder(backbone)
    started = time.perf_counter()
    found = [
        finder.crop_of(demo_collection.folder / photo.path) for photo in demo_collection.photos
    ]
    seconds = (time.perf_counter() - started) / len(found)
    tight = [
        Crop.from_box(photo.box, photo.width, photo.height) for photo in demo_collection.photos
    ]
    lines = [
        "| square | holds 90 % of the bird | mean share held | mean side | s/photo |",
        "|---|---|---|---|---|",
    ]
    rows: list[tuple[str, list[Crop], str]] = [
        ("center, largest", [Crop()] * len(found), ""),
        ("center, as large as the proposals", [Crop(side=crop.side) for crop in found], ""),
        ("saliency", found, f"{seconds:.3f}"),
        ("the box as drawn", tight, ""),
    ]
    for name, crops, shown in rows:
        shares = np.array([held(c, p) for c, p in zip(crops, demo_collection.photos, strict=True)])
        sides = statistics.mean(crop.side for crop in crops)
        lines.append(
            f"| {name} | {np.mean(shares >= 0.9):.1%} of {len(crops)} | {shares.mean():.1%} | "
            f"{sides:.2f} | {shown} |"
        )
    return [*lines, ""]


def held(crop: Crop, photo: object) -> float:
    """Returns the share of a bird's box that is inside a crop."""
    box, width, height = photo.box, photo.width, photo.height  # type: ignore[attr-defined]
    left, top, right, bottom = crop.box(width, height)
    wide = max(0.0, min(right, box[2]) - max(left, box[0]))
    high = max(0.0, min(bottom, box[3]) - max(top, box[1]))
    return float(wide * high / ((box[2] - box[0]) * (box[3] - box[1])))


def errors_table(demo_collection: DemoCollection, backbone: LoadedModel) -> list[str]:
    """Returns rows: share of the planted label errors that are found, with and without crops."""
    collection = scan(demo_collection.folder)
    finder = SubjectFinder(backbone)
    whole = list(collection.photos)
    cropped = [
        dataclasses.replace(photo, crop=finder.crop_of(collection.path_of(photo)))
        for photo in whole
    ]
    groups = photo_groups(whole)
    lines = [
        "| features of | right out of sample | planted | precision | recall |",
        "|---|---|---|---|---|",
    ]
    for name, photos in (("the middle of the photo", whole), ("the proposed square", cropped)):
        features = Embedder(backbone).embed(demo_collection.folder, photos).features
        truth = [photo.labels[0] for photo in photos]
        clean = find_label_errors(features, truth, groups)
        guessed = np.array(clean.labels)[np.nan_to_num(clean.probabilities).argmax(axis=1)]
        right = float(np.mean(guessed == np.array(truth)))
        hits = shown = planted = 0
        for seed in range(ROUNDS):
            given, wrong = plant(truth, seed)
            found = {d.position for d in find_label_errors(features, given, groups).errors}
            hits, shown = hits + len(found & wrong), shown + len(found)
            planted += len(wrong)
        lines.append(
            f"| {name} | {right:.1%} | {planted} in {ROUNDS} rounds | {hits / max(shown, 1):.1%} | "
            f"{hits / planted:.1%} |"
        )
    return [*lines, ""]


def plant(truth: list[str], seed: int) -> tuple[list[str], set[int]]:
    """Returns labels with one error in 20, and a mask of the errors."""
    rng = np.random.default_rng(seed)
    names = sorted(set(truth))
    wrong = rng.choice(len(truth), max(1, len(truth) // 20), replace=False)
    given = list(truth)
    for position in wrong:
        others = [name for name in names if name != truth[position]]
        given[position] = str(rng.choice(others))
    return given, set(wrong.tolist())


def head_table() -> list[str]:
    """Returns rows: time of `fit_classifier` and of scikit-learn with the same objective."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    lines = [
        "| photos x features, labels | quick head | scikit-learn | ratio |",
        "|---|---|---|---|",
    ]
    for count, labels in ((1_000, 8), (10_000, 20)):
        features, names = blobs(count, 1280, labels)
        scaled = StandardScaler().fit_transform(features)
        theirs = LogisticRegression(C=1 / (count * DEFAULT_L2), max_iter=100)
        rounds = 3 if count < 5_000 else 1
        ours = clock(lambda f=features, n=names: fit_classifier(f, n), rounds)  # type: ignore[misc]
        other = clock(lambda t=theirs, s=scaled, n=names: t.fit(s, n), rounds)  # type: ignore[misc]
        lines.append(
            f"| {count:,} x 1,280, {labels} | {ours:.2f} s | {other:.2f} s | {other / ours:.1f} |"
        )
    return [*lines, "", f"{torch.get_num_threads()} threads.", ""]


def blobs(count: int, width: int, labels: int) -> tuple[NDArray[np.float32], list[str]]:
    """Returns overlapping features and their labels."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, labels, count)
    centers = rng.normal(size=(labels, width)).astype(np.float32)
    features = 0.15 * centers[targets] + rng.normal(size=(count, width)).astype(np.float32)
    return features.astype(np.float32), [f"label {target}" for target in targets]


def clock(work: Callable[[], object], rounds: int) -> float:
    """Returns the median seconds of the rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
