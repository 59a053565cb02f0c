"""Near-duplicates that hashes and features find: recall of planted edits, and pairs that are none.

    python benchmarks/feature_duplicates.py PHOTOS [PHOTOS ...] [--count 60]

Takes up to COUNT photos of each folder and plants five edits of every second one: a crop of 55 to
80 % of its area, a mirror image, another color (gray, another hue, or stronger), a screenshot with
bars around it, and a mirrored crop. Pairs of different photos are counted as wrong; some of these
may be near-duplicates that the folders had before, so they are listed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from finetune.curation.embedding import DEFAULT_BACKBONE, embed
from finetune.curation.feature_duplicates import find_pairs
from finetune.photos.near_duplicates.groups import near_duplicate_groups
from finetune.photos.scan import find_photos, scan

Edit = Callable[[Image.Image, random.Random], Image.Image]


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.uniform(0.55, 0.8) ** 0.5
    width, height = int(image.width * share), int(image.height * share)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def color(image: Image.Image, rng: random.Random) -> Image.Image:
    kind = rng.randrange(3)
    if kind == 0:
        return ImageOps.grayscale(image).convert("RGB")
    if kind == 1:
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point(lambda level: (level + 60) % 256)
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    image = ImageEnhance.Color(image).enhance(1.8)
    image = ImageEnhance.Brightness(image).enhance(rng.choice([0.6, 1.5]))
    return ImageEnhance.Contrast(image).enhance(1.4)


def screenshot(image: Image.Image, rng: random.Random) -> Image.Image:
    width, height = int(image.width * 1.15), int(image.height * 1.5)
    shown = Image.new("RGB", (width, height), (24, 24, 28))
    draw = ImageDraw.Draw(shown)
    draw.rectangle((0, 0, width, int(height * 0.08)), fill=(240, 240, 240))
    draw.rectangle((0, int(height * 0.9), width, height), fill=(60, 60, 66))
    for number in range(5):
        x, y = width * (0.1 + 0.2 * number), height * 0.95
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(200, 200, 200))
    shown.paste(image, ((width - image.width) // 2, int(height * 0.1)))
    return shown.resize((max(64, int(width * 0.6)), max(64, int(height * 0.6))))


EDITS: dict[str, Edit] = {
    "crop": crop,
    "flip": lambda image, rng: ImageOps.mirror(image),
    "color": color,
    "screenshot": screenshot,
    "flipped crop": lambda image, rng: ImageOps.mirror(crop(image, rng)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        originals = plant(root, given.photos, given.count, given.seed)
        collection = scan(root)
        groups = near_duplicate_groups(collection.photos)
        hashed = {
            frozenset((one.photo.path, other.photo.path))
            for group in groups
            for one in group.photos
            for other in group.photos
            if one is not other
        }
        found = embed(root, collection.photos, progress=show)
        chosen = find_pairs(found.features)
        paired = {
            frozenset((found.photos[one].path, found.photos[other].path))
            for one, other in chosen.pairs.tolist()
        }
    report(originals, hashed, paired)


def plant(root: Path, folders: list[Path], count: int, seed: int) -> dict[str, str]:
    """Writes photos and their edits; returns the original of each file by name."""
    rng = random.Random(seed)
    originals: dict[str, str] = {}
    for place, folder in enumerate(folders):
        files = [folder / file.path for file in find_photos(folder).files]
        random.Random(seed).shuffle(files)
        for number, file in enumerate(files[:count]):
            try:
                image = Image.open(file).convert("RGB")
            except (OSError, ValueError):
                continue
            image.thumbnail((800, 800))
            target = root / str(place) / f"{number:04}.jpg"
            target.parent.mkdir(exist_ok=True)
            image.save(target, quality=92)
            own = originals[target.relative_to(root).as_posix()] = f"{place}/{number:04}.jpg"
            for edit, change in EDITS.items() if number % 2 == 0 else ():
                edited = target.with_name(f"{number:04} {edit}.jpg")
                change(image, rng).save(edited, quality=80)
                originals[edited.relative_to(root).as_posix()] = own
    return originals


def report(
    originals: dict[str, str], hashed: set[frozenset[str]], paired: set[frozenset[str]]
) -> None:
    """Prints the tables."""
    print(f"{len(originals)} photos, {len(set(originals.values()))} of them originals; ")
    print(f"features of {DEFAULT_BACKBONE}\n\n| edit | planted | hashes | features | either |")
    print("|---|---:|---:|---:|---:|")
    for edit in EDITS:
        pairs = [
            frozenset((path, own))
            for path, own in originals.items()
            if path == own.replace(".jpg", f" {edit}.jpg")
        ]
        shares = [np.mean([pair in known for pair in pairs]) for known in (hashed, paired)]
        either = np.mean([pair in hashed or pair in paired for pair in pairs])
        cells = " | ".join(f"{share:.1%}" for share in (*shares, either))
        print(f"| {edit} | {len(pairs)} | {cells} |")
    for name, known in {"hashes": hashed, "features": paired}.items():
        wrong = [sorted(pair) for pair in known if len({originals[one] for one in pair}) > 1]
        plain = [pair for pair in wrong if all(originals[one] == one for one in pair)]
        print(f"\n{name}: {len(wrong)} pairs of different photos, {len(plain)} of them originals:")
        for pair in sorted(plain):
            print(f"- {pair[0]} and {pair[1]}")


def show(done: int, total: int) -> None:
    print(f"\rfeatures {done} of {total}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
