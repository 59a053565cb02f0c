"""Time of hashes and resized images: finetune with draft decoding, imagehash and Pillow.

    python benchmarks/hashing.py [--photos ../shared/photos/hymenoptera] [--count 6]

The largest photos of a folder are enlarged to 12 megapixels with sensor noise and saved as JPEGs
of camera quality. Candidates alternate photo by photo; each result is the median over photos and
rounds, in milliseconds of CPU time on one core. The second table compares the hashes after draft
decoding with those of `imagehash` on the full decode of the same file, over all photos.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageOps

from finetune.photos.crops import crop_and_resize, load_image, needed_side
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.near_duplicates.hashing import hash_image, hash_photo, hash_with_mirror
from finetune.photos.quality import small_gray

SIZE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos/hymenoptera"))
    parser.add_argument("--count", type=int, default=6, help="photos of 12 megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the tables to this file, too")
    options = parser.parse_args()
    files = sorted(options.photos.rglob("*.jpg"), key=lambda path: -path.stat().st_size)
    with tempfile.TemporaryDirectory() as folder:
        large = [
            enlarged(path, Path(folder) / f"{number}.jpg", number)
            for number, path in enumerate(files[: options.count])
        ]
        table = speed(large, options.rounds) + "\n\n" + accuracy(files, large)
    print(table)
    if options.output is not None:
        options.output.write_text(table + "\n", encoding="utf-8")


def enlarged(path: Path, target: Path, seed: int) -> Path:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS))
    grain = np.random.default_rng(seed).normal(0, 4, pixels.shape)
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(target, quality=92)
    return target


def speed(large: list[Path], rounds: int) -> str:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for path in large:
            decoded = decode_photo(path, min_side_pixels=needed_side(SIZE))
            gray = small_gray(decoded)  # a scan makes it once, for hashes and quality
            candidates: dict[str, Callable[[], object]] = {
                "imagehash.phash(Image.open(path))": lambda path=path: plain_hash(path),
                "hash_photo(path)": lambda path=path: hash_photo(path),
                "Image.open(path), resize to 256": lambda path=path: plain_square(path),
                "load_image(path, size=256)": lambda path=path: load_image(path, size=SIZE),
                "decode_photo(path) for load_image": lambda path=path: decode_photo(
                    path, min_side_pixels=needed_side(SIZE)
                ),
                "small_gray(decoded)": lambda image=decoded: small_gray(image),
                "hash_with_mirror(gray)": lambda image=gray: hash_with_mirror(image),
            }
            for name, act in candidates.items():
                start = time.process_time()
                act()
                times[name].append(time.process_time() - start)
    figures = {name: 1000 * statistics.median(values) for name, values in times.items()}
    base = {
        "hash_photo(path)": "imagehash.phash(Image.open(path))",
        "load_image(path, size=256)": "Image.open(path), resize to 256",
    }
    lines = ["| 12-megapixel JPEG | CPU time, ms | times as fast |", "|---|--:|--:|"]
    for name, value in figures.items():
        ratio = f"{figures[base[name]] / value:.1f}" if name in base else ""
        if name in ("small_gray(decoded)", "hash_with_mirror(gray)"):
            share = value / figures["decode_photo(path) for load_image"]
            ratio = f"{share:.1%} of the decode"
        lines.append(f"| `{name}` | {value:.1f} | {ratio} |")
    return "\n".join(lines)


def plain_hash(path: Path) -> object:
    with Image.open(path) as image:
        return imagehash.phash(image)


def plain_square(path: Path) -> object:
    with Image.open(path) as image:
        return image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def accuracy(files: list[Path], large: list[Path]) -> str:
    kinds = {
        "perceptual": imagehash.phash,
        "average": imagehash.average_hash,
        "difference": imagehash.dhash,
        "wavelet": imagehash.whash,
    }
    lines = [
        "| photos | hash | equal | 2 bits or fewer | most bits |",
        "|---|---|--:|--:|--:|",
    ]
    for what, paths in ((f"{len(files)} of a collection", files), ("12 megapixels", large)):
        bits: defaultdict[str, list[int]] = defaultdict(list)
        for path in paths:
            ours = hash_image(decode_photo(path, min_side_pixels=128))
            with Image.open(path) as opened:
                full = ImageOps.exif_transpose(opened)
            for kind, make in kinds.items():
                bits[kind].append((getattr(ours, kind) ^ int(str(make(full)), 16)).bit_count())
        for kind, values in bits.items():
            lines.append(
                f"| {what} | {kind} | {np.mean(np.array(values) == 0):.1%} "
                f"| {np.mean(np.array(values) <= 2):.1%} | {max(values)} |"
            )
    differences = [
        np.abs(
            load_image(path, size=SIZE).astype(int) - crop_and_resize(decode_photo(path), size=SIZE)
        ).mean()
        for path in large
    ]
    worst = max(differences)
    return "\n".join(lines) + (
        f"\n\nSquares of the 12-megapixel photos differ from those of the full decode by "
        f"{statistics.mean(differences):.2f} gray levels on average, {worst:.2f} at most."
    )


if __name__ == "__main__":
    main()
