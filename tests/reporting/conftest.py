"""A run folder made without a training: what a report reads, from invented logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from finetune.evaluation.calibration import fit_temperature
from finetune.evaluation.confusion import confusion_matrix, write_confusion_csv
from finetune.evaluation.cross_fit import masked_scores
from finetune.evaluation.metrics import evaluate_logits
from finetune.evaluation.precision_target import fit_stated
from finetune.evaluation.predictions import EvaluatedPhoto, make_predictions, write_predictions
from finetune.files import write_json
from finetune.photos.split.split import SplitRow, write_split

HOSTILE = ("カワセミ", "<b>gull</b>", '</script><script>alert("x")</script>', "=cmd|' /C calc'!A0")
"""Labels that a page could take for something else."""

BIRDS = (
    *("heron", "egret", "robin", "wren", "coot", "moorhen", "kestrel", "merlin", "swift"),
    *("swallow", "stork", "crane", "rook", "raven", "jay", "linnet", "siskin", "dunnock"),
)


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    path: Path
    photos: Path
    labels: tuple[str, ...]


def label_names(count: int) -> tuple[str, ...]:
    names = [*HOSTILE, *BIRDS]
    names += [f"Genus{k:02d} species{k % 7}" for k in range(max(0, count - len(names)))]
    return tuple(sorted(names[:count]))


def draw_photo(path: Path, label: int, seed: int, size: tuple[int, int] = (320, 240)) -> None:
    """A blob of the label's color on a sky: small as a file, quick to draw, easy to tell."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    hue = np.array([np.sin(label * 1.3), np.sin(label * 2.1 + 2), np.sin(label * 0.7 + 4)])
    sky = 150 + 60 * (1 - y)[..., None] * np.array([0.6, 0.8, 1.0]) + rng.normal(0, 4, (1, 1, 3))
    cx, cy = rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.65)
    body = ((x - cx) / 0.28) ** 2 + ((y - cy) / 0.17) ** 2 < 1
    head = (x - cx - 0.24) ** 2 + (y - cy + 0.14) ** 2 < 0.011
    sky[body | head] = 128 + 100 * hue
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[0x8825] = {2: (52.0, 31.0, 12.0)}  # where it was taken
    image = Image.fromarray(sky.clip(0, 255).astype(np.uint8))
    image.save(path, "JPEG", quality=85, exif=exif)


def make_run(
    folder: Path,
    *,
    label_count: int = 6,
    photo_count: int = 120,
    evaluated: float | None = None,
    photo_size: tuple[int, int] = (320, 240),
    draw: bool = True,
    seed: int = 0,
    skill: float = 3.2,
    name: str = "2026-11-22-mobilenetv2_100-head",
    settings: dict[str, object] | None = None,
) -> MadeRun:
    """Writes a run folder and, unless told otherwise, the photos of its evaluated parts.

    Args:
        folder: Where ``runs/`` and ``photos/`` are made.
        label_count: Labels.
        photo_count: Photos in all.
        evaluated: Share of them in the test part; None: 15 % test beside 15 % validation.
        photo_size: Width and height of each photo.
        draw: Whether the photos are drawn.
        seed: Of the logits and parts.
        skill: How far the truth's logit stands out.
        name: Of the run.
        settings: Of the training, in config.json.
    """
    rng = np.random.default_rng(seed)
    labels = label_names(label_count)
    targets = np.arange(photo_count) % label_count
    test = 0.15 if evaluated is None else evaluated
    shares = [max(0.0, 0.85 - test), min(0.15, 1 - test), test]
    # The parts of one collection stay the same, whatever the run's seed.
    parts = np.random.default_rng(99).permutation(
        np.repeat(["train", "validation", "test"], _sizes(shares, photo_count))
    )
    logits = rng.normal(size=(photo_count, label_count)) * 1.6
    logits[np.arange(photo_count), targets] += skill
    neighbor = np.minimum(targets ^ 1, label_count - 1)  # even and odd labels look alike
    logits[np.arange(photo_count), neighbor] += skill * 0.55
    logits *= 2.0  # as sure as networks are before calibration
    photos, rows, folder_photos = [], [], folder / "photos"
    for k, (target, part) in enumerate(zip(targets, parts, strict=True)):
        directory = labels[target].replace("/", "_") if label_count else "x"
        path = f"{directory}/photo {k:05d}.jpg"
        digest = f"{k:032x}"
        photos.append(EvaluatedPhoto(path=path, digest=digest, part=str(part)))
        rows.append(
            SplitRow(path=path, digest=digest, labels=(labels[target],), group=str(k), part=part)
        )
        if draw and part != "train":
            draw_photo(folder_photos / path, int(target), k, photo_size)
    run = folder / "runs" / name
    run.mkdir(parents=True)
    _write_files(run, labels, logits, targets, parts, photos, rows, folder_photos, settings)
    return MadeRun(path=run, photos=folder_photos, labels=labels)


def _write_files(
    run, labels, logits, targets, parts, photos, rows, folder_photos, settings
) -> None:
    validation, tested = parts == "validation", parts == "test"
    temperature = fit_temperature(logits[validation], targets[validation])
    metrics, predictions = {}, []
    for part, chosen in (("validation", validation), ("test", tested)):
        if not chosen.any():
            continue
        metrics[part] = evaluate_logits(
            logits[chosen], targets[chosen], labels, temperature=temperature
        )
        predictions += make_predictions(
            [photo for photo, take in zip(photos, chosen, strict=True) if take],
            logits[chosen],
            targets[chosen],
            labels,
            temperature=temperature,
        )
    threshold = fit_stated(
        masked_scores(logits[validation], targets[validation], temperature=temperature),
        score="max_probability",
    )
    write_json(run / "metrics.json", metrics)
    write_json(run / "labels.json", list(labels))
    write_json(
        run / "calibration.json", {"temperature": temperature, "unknown": threshold.to_dict()}
    )
    write_predictions(run / "predictions.csv", predictions)
    write_confusion_csv(
        run / "confusion_matrix.csv",
        confusion_matrix(targets[tested], logits[tested].argmax(axis=1), len(labels)),
        labels,
    )
    write_split(run / "split.csv", rows)
    write_json(
        run / "config.json",
        {
            "photos": str(folder_photos),
            "model": "mobilenetv2_100",
            "started": "2026-11-22T09:12:50",
            "versions": {"finetune": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"},
            "device": "cpu",
            "settings": {
                "collection": {"validation": 0.15, "test": 0.15, "catalog": None},
                "model": {"model": "mobilenetv2_100", "weights": None},
                "training": {"mode": "head", "epochs": 12, "lr": 0.003, **(settings or {})},
            },
            "finished": True,
            "best_epoch": 12,
            "training_seconds": 50.4,
        },
    )
    best = metrics.get("validation", {}).get("top1") or 0.5
    epochs = [
        {
            "event": "epoch",
            "epoch": k,
            "step": 40 * k,
            "train_loss": 2.2 * 0.75**k + 0.15,
            "train_accuracy": 1 - 0.6 * 0.72**k,
            "validation_loss": 2.0 * 0.78**k + 0.35,
            "validation_accuracy": best * (1 - 0.5 * 0.65**k),
            "lr": 0.003 * (1 - k / 13),
            "images_per_second": 412.0,
            "seconds": 4.2,
        }
        for k in range(1, 13)
    ]
    text = "".join(json.dumps(event) + "\n" for event in epochs)
    (run / "log.jsonl").write_text(text, encoding="utf-8")
    save_file(
        {
            "head.weight": np.zeros((len(labels), 16), np.float32),
            "norm.running_mean": np.zeros(16, np.float32),
        },
        run / "model.safetensors",
    )


def _sizes(shares: list[float], count: int) -> list[int]:
    test, validation = round(shares[2] * count), round(shares[1] * count)
    return [count - validation - test, validation, test]


@pytest.fixture
def run_maker(tmp_path: Path) -> Callable[..., MadeRun]:
    return lambda **settings: make_run(tmp_path, **settings)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """Six labels, hostile names among them; tests must not write into it."""
    return make_run(tmp_path_factory.mktemp("small"), label_count=6, photo_count=160)


@pytest.fixture(scope="session")
def two_run_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeRun, MadeRun]:
    """A weak and a strong run on the same photos; tests must not write into them."""
    folder = tmp_path_factory.mktemp("two")
    weak = make_run(folder, photo_count=200, seed=0, skill=2.0, name="one")
    strong = make_run(folder, photo_count=200, seed=1, skill=4.5, name="two", settings={"lr": 0.01})
    return weak, strong
