"""Run folders without a training, from random logits; their pages in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from finetune.evaluation.calibration import fit_temperature
from finetune.evaluation.confusion import confusion_matrix, write_confusion_csv
from finetune.evaluation.cross_fit import (
    CrossFit,
    HeldOutLogits,
    fit_detector,
    fit_precision,
)
from finetune.evaluation.metrics import evaluate_logits
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
    """Run folder, the root of its photos, and its labels."""

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
    photo_size: tuple[int, int] = (320, 240),
    draw: bool = True,
    seed: int = 0,
    skill: float = 3.2,
    test_share: float = 0.15,
    name: str = "2026-11-22-mobilenetv2_100-head",
    settings: dict[str, object] | None = None,
) -> MadeRun:
    """Writes a run folder and, unless told otherwise, the photos of its evaluated parts.

    Args:
        folder: Where ``runs/`` and ``photos/`` are made.
        label_count: Labels.
        photo_count: Photos in all.
        photo_size: Width and height of each photo.
        draw: Whether the photos are drawn.
        seed: Of the logits and parts.
        skill: How far the truth's logit stands out.
        test_share: Share of the test photos; 15 % more are for validation.
        name: Of the run.
        settings: Of the training, in config.json.
    """
    rng = np.random.default_rng(seed)
    labels = label_names(label_count)
    targets = np.arange(photo_count) % label_count
    held_out, in_test = round(0.15 * photo_count), round(test_share * photo_count)
    # The parts of one collection stay the same, whatever the run's seed.
    parts = np.random.default_rng(99).permutation(
        np.repeat(
            ["train", "validation", "test"],
            [photo_count - held_out - in_test, held_out, in_test],
        )
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
    validation, tested = parts == "validation", parts == "test"
    temperature = fit_temperature(logits[validation], targets[validation])
    metrics: dict[str, Any] = {}
    predictions = []
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
    known = HeldOutLogits(
        logits=np.asarray(logits[validation], np.float64),
        targets=np.asarray(targets[validation], np.int64),
        groups=np.arange(validation.sum()),
    )
    detector = fit_detector(CrossFit(known=known), temperature=temperature, distance=None)
    curve = fit_precision(known, temperature=temperature)
    write_json(run / "metrics.json", metrics)
    write_json(run / "labels.json", list(labels))
    write_json(
        run / "calibration.json",
        {"temperature": temperature, "unknown": detector.to_dict(), "sure": curve.to_dict()},
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
    return MadeRun(path=run, photos=folder_photos, labels=labels)


RunMaker = Callable[..., MadeRun]


@pytest.fixture
def run_maker(tmp_path: Path) -> RunMaker:
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


ReadData = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="session")
def read_data() -> ReadData:
    """The function that returns the JSON data of a page."""

    def read(page: Path) -> dict[str, Any]:
        text = page.read_text(encoding="utf-8")
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
        assert found
        data: dict[str, Any] = json.loads(found[1])
        return data

    return read


@dataclass(kw_only=True)
class Watched:
    """A page in a browser, with its console messages, errors and requests."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """Requests that are not for data in the page."""
        return [url for url in self.requests if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def browser(start_browser: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """A real Chromium."""
    with start_browser() as found:
        yield found


OpenPage = Callable[..., Watched]


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Iterator[OpenPage]:
    """The function ``open_page(path, **options)`` that opens a file in a page of its own."""
    pages = []

    def open_file(path: Path, **options: Any) -> Watched:
        page = browser.new_page(**options)
        pages.append(page)
        page.set_default_timeout(60_000)
        watched = Watched(page=page)
        page.on("console", lambda m: watched.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        page.goto(path.as_uri())
        return watched

    yield open_file
    for page in pages:
        page.close()
