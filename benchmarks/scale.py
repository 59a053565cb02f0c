"""Time and memory of each command by the number of photos, and how fast they grow.

    python benchmarks/scale.py [--photos 1000 10000 100000] [--labels 200] [--folder /dev/shm]
        [--steps scan split ...]

Draws small photos of each label, 1 in 20 of them a near-duplicate of the one before, and runs each
command in its own process. Prints elapsed and processor time and the peak memory of the largest
process. The exponent is that of a power of the number of photos through the two largest
collections: 1 is in proportion. With ``--draw-features`` the features are random numbers around a
mean for each label instead of the network's, which costs each photo the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = ["--model", "tf_efficientnet_lite0", "--size", "64", "--mode", "head"]

COMMANDS = {
    "scan": ["scan", "photos", "--quiet"],
    "scan again": ["scan", "photos", "--quiet"],
    "split": ["split", "photos", "--output", "split.csv", "--quiet"],
    "duplicates": ["duplicates", "photos", "--quiet"],
    "features": ["train", "photos", *MODEL, "--head-l2", "1", "--name", "first", "--quiet"],
    "head": ["train", "photos", *MODEL, "--name", "head", "--quiet"],
    "predict": ["predict", "photos", "--run", "head", "--csv", "answers.csv", "--quiet"],
    "evaluate": ["evaluate", "head", "photos", "--quiet"],
    "report": ["report", "head", "--quiet"],
}
"""``features`` computes the features, and fits a head of one L2 strength; ``head`` finds them
cached, and tries all strengths."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a command: elapsed and processor time in seconds, peak memory in MB."""

    elapsed: float
    processor: float
    megabytes: float


def draw_label(folder: Path, label: int, count: int) -> None:
    """Writes the photos of a label, about 2 kB each."""
    rng = np.random.default_rng(label)
    folder.mkdir(parents=True)
    color = rng.integers(0, 120, 3)
    coarse = rng.integers(0, 256, (6, 8, 3))
    for number in range(count):
        near = number % 20 == 19
        if not near:
            coarse = (rng.integers(0, 256, (6, 8, 3)) + color) // 2
        pixels = Image.fromarray(coarse.astype(np.uint8))
        image = pixels.resize((96, 72), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=70 if near else 85)


def draw(root: Path, photos: int, labels: int) -> None:
    """Writes a collection."""
    with ProcessPoolExecutor() as pool:
        for label in range(labels):
            count = photos // labels + (label < photos % labels)
            pool.submit(draw_label, root / f"label-{label:03}", label, count)


def draw_features(root: Path) -> None:
    """Fills the caches of pixels and features, in a process of its own."""
    subprocess.run([sys.executable, "-c", _DRAW, str(root)], check=True)


_DRAW = """
import sys
from pathlib import Path
import numpy as np
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.factory import ModelRequest, create_model
from finetune.models.features import FeatureCache
from finetune.photos.scan import scan
root = Path(sys.argv[1])
loaded = create_model(ModelRequest(name="tf_efficientnet_lite0", size=64, download=False))
pixels = PixelCache(root / ".finetune", loaded.preprocessing, limit_gb=10)
photos = scan(root, sink=pixels).photos
pixels.close()
samples = [Sample(path=p.path, digest=p.digest, crop=p.crop, target=0) for p in photos]
features = FeatureCache(root / ".finetune", loaded.module.eval(), loaded.preprocessing)
rng = np.random.default_rng(0)
means = {}
for key, photo in zip(features.keys(PhotoDataset(root, samples, pixels)), photos):
    width = features.records.shape
    label = photo.labels[0]
    if label not in means:
        means[label] = 0.3 * rng.standard_normal(width)
    values = means[label] + rng.standard_normal(width)
    features.records.put(key, np.abs(values).astype(np.float32))
features.close()
"""


def measure(command: list[str], folder: Path) -> Cost:
    """Returns the cost of a command."""
    start = time.perf_counter()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", *command], cwd=folder, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"finetune {' '.join(command)}:\n{(folder / 'log.txt').read_text()}")
    return Cost(
        elapsed=time.perf_counter() - start,
        processor=usage.ru_utime + usage.ru_stime,
        megabytes=usage.ru_maxrss / 1024,
    )


def exponent(small: float, large: float, ratio: float) -> float:
    """Returns the power by which a cost grows while the photos grow by `ratio`."""
    return math.log(large / small) / math.log(ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--steps", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--draw-features", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep photos and runs here, and use them again")
    asked = parser.parse_args()
    costs: dict[str, dict[int, Cost]] = {step: {} for step in asked.steps}
    for photos in asked.photos:
        place = Path(tempfile.mkdtemp(dir=asked.folder))
        if asked.keep is not None:
            place = asked.keep / str(photos)
        if not (place / "photos").is_dir():
            draw(place / "photos", photos, asked.labels)
        try:
            for step in asked.steps:
                clear(place, step)
                if step == "features" and asked.draw_features:
                    draw_features(place / "photos")
                costs[step][photos] = cost = measure(COMMANDS[step], place)
                print(photos, step, json.dumps(vars(cost)), file=sys.stderr, flush=True)
        finally:
            if asked.keep is None:
                shutil.rmtree(place)
    show(costs, asked.photos)


def clear(place: Path, step: str) -> None:
    """Removes what an earlier round of a step left, so that it is done again."""
    if step == "scan":
        shutil.rmtree(place / "photos" / ".finetune", ignore_errors=True)
    for run in {"features": ["first"], "head": ["head"]}.get(step, []):
        shutil.rmtree(place / "runs" / run, ignore_errors=True)
    if step == "predict":
        (place / "answers.csv").unlink(missing_ok=True)


def show(costs: dict[str, dict[int, Cost]], sizes: list[int]) -> None:
    """Prints a table in Markdown."""
    columns = " | ".join(f"{photos:,} photos" for photos in sizes)
    print(f"| command | {columns} | exponent of processor time | of memory |")
    print("|---|" + "---:|" * (len(sizes) + 2))
    for step, by_size in costs.items():
        cells = [
            f"{by_size[n].elapsed:.1f} s ({by_size[n].processor:.1f} s), "
            f"{by_size[n].megabytes:,.0f} MB"
            for n in sizes
        ]
        powers = ["", ""]
        if len(sizes) > 1:
            few, many = by_size[sizes[-2]], by_size[sizes[-1]]
            ratio = sizes[-1] / sizes[-2]
            powers = [
                f"{exponent(few.processor, many.processor, ratio):.2f}",
                f"{exponent(few.megabytes, many.megabytes, ratio):.2f}",
            ]
        print(f"| {step} | {' | '.join(cells)} | {' | '.join(powers)} |")


if __name__ == "__main__":
    main()
