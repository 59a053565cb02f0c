"""Time of a scan compared with a decode loop: run ``python benchmarks/scan.py``.

Three results, each measured in the same run as its baseline:

* speed of a first scan of 12-megapixel photos, as a share of that of a loop that only decodes them
  on the same cores (target: 80 %);
* time of the hashes, as a share of the decode that the cache needs (target: 5 %);
* time of a second scan of 10,000 unchanged photos (target: 3 s).
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.photos.decode.decoder import decode_photo
from finetune.photos.decode.pool import usable_cores
from finetune.photos.near_duplicates.hashing import hash_with_mirror
from finetune.photos.quality import MEASURED_SIDE_PIXELS, measure, small_gray
from finetune.photos.scan import scan

CACHE_SIDE_PIXELS = 512
"""Shorter side of the decode that a cache of 256-pixel squares needs."""

BARE_LOOP = """
import sys
import numpy as np
from PIL import Image
side = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for path in sys.stdin.read().split():
    image = Image.open(path)
    image.draft("RGB", (side, side))
    np.asarray(image)
"""


def draw(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draws a photo with as much detail as a camera's: about 4 MB for a 12-megapixel JPEG."""
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-9, 10, (height, width, 1), np.int16)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def make_large(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder = root / "label"
    folder.mkdir(parents=True)
    kinds = []
    for _ in range(4):
        file = io.BytesIO()
        draw(rng, 4000, 3000).save(file, "JPEG", quality=88)
        kinds.append(file.getvalue())
    for number in range(count):
        # Bytes after the end of a JPEG change its digest and nothing else.
        content = kinds[number % len(kinds)] + number.to_bytes(8, "big")
        (folder / f"{number:04}.jpg").write_bytes(content)


def make_small(root: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    file = io.BytesIO()
    draw(rng, 160, 120).save(file, "JPEG", quality=85)
    for number in range(count):
        folder = root / f"label-{number % 20:02}"
        folder.mkdir(parents=True, exist_ok=True)
        content = file.getvalue() + number.to_bytes(8, "big")
        (folder / f"{number:05}.jpg").write_bytes(content)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bare_loop(root: Path, side: int) -> float:
    """Returns the seconds in which a process per core decodes all photos, without start-up."""
    paths = sorted(str(path) for path in root.rglob("*.jpg"))
    cores = usable_cores()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BARE_LOOP, str(side)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(cores)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    start = time.perf_counter()
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write("\n" + "\n".join(paths[number::cores]))
        process.stdin.close()
    for process in processes:
        process.wait()
    return time.perf_counter() - start


class Shelf:
    """A sink that discards images, to measure the decoding for the cache."""

    size, fit, interpolation = 256, "crop", "bicubic"

    def missing(self, digest: str, crop: object) -> bool:
        """Returns True for every image."""
        return True

    def put(self, digest: str, crop: object, image: object) -> None:
        """Discards the image."""


def first_scan(root: Path, sink: Shelf | None) -> float:
    shutil.rmtree(root / ".finetune", ignore_errors=True)
    return seconds(lambda: scan(root, sink=sink))  # type: ignore[arg-type]


def shares(path: Path) -> tuple[float, float, float]:
    """Returns milliseconds of the cache's decode, the hashes and the quality of a large photo."""
    content = path.read_bytes()
    image = decode_photo(content, min_side_pixels=CACHE_SIDE_PIXELS)
    gray = small_gray(image)
    decode = [seconds(lambda: decode_photo(content, min_side_pixels=CACHE_SIDE_PIXELS))]
    hashes, quality = [], []
    for _ in range(15):
        decode.append(seconds(lambda: decode_photo(content, min_side_pixels=CACHE_SIDE_PIXELS)))
        hashes.append(seconds(lambda: hash_with_mirror(gray)))
        quality.append(seconds(lambda: measure(small_gray(image))))
    medians = [statistics.median(times) for times in (decode, hashes, quality)]
    return 1e3 * medians[0], 1e3 * medians[1], 1e3 * medians[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=160, help="12-megapixel photos")
    parser.add_argument("--small", type=int, default=10_000, help="small photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the drawn photos are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        report(Path(name), arguments.large, arguments.small, arguments.rounds)


def report(root: Path, large: int, small: int, rounds: int) -> None:
    make_large(root / "large", large)
    rows = []
    for what, side, sink in (
        ("scan alone", MEASURED_SIDE_PIXELS, None),
        ("scan that fills the cache", CACHE_SIDE_PIXELS, Shelf()),
    ):
        bare, scanned = [], []
        for _ in range(rounds):
            bare.append(bare_loop(root / "large", side))
            scanned.append(first_scan(root / "large", sink))
        loop, whole = statistics.median(bare), statistics.median(scanned)
        rows.append(
            f"| {what}, {large} photos of 12 MP | {large / whole:.0f} photos/s | bare draft-decode "
            f"loop {large / loop:.0f} photos/s | {loop / whole:.0%} |"
        )
    decode, hashes, quality = shares(root / "large" / "label" / "0000.jpg")
    rows.append(
        f"| hashes and mirror hashes, one 12 MP photo | {hashes:.2f} ms | the cache's decode "
        f"{decode:.2f} ms | {hashes / decode:.1%} |"
    )
    rows.append(
        f"| gray copy and quality, one 12 MP photo | {quality:.2f} ms | the cache's decode "
        f"{decode:.2f} ms | {quality / decode:.1%} |"
    )
    shutil.rmtree(root / "large")
    make_small(root / "small", small)
    first = seconds(lambda: scan(root / "small"))
    again = statistics.median(seconds(lambda: scan(root / "small")) for _ in range(rounds))
    rows.append(
        f"| second scan of {small:,} unchanged photos | {again:.2f} s | first scan {first:.1f} s | "
        f"{again / first:.1%} |"
    )
    print("| what | measured | beside | ratio |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
