"""Cached features of labeled sets and of strangers, for the study of unknown photos."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from finetune.curation.embedding import embed
from finetune.demo_data import draw_collection
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups

PER_LABEL = {"cifar10": 60, "mnist": 100}
"""Photos of each label taken from the large sets."""

SYNTHETIC = 40
"""Pictures of each synthetic kind."""


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features ``(N, F)`` of photos with their labels and near-duplicate groups, ``(N,)`` each."""

    name: str
    features: NDArray[np.float64]
    targets: NDArray[np.int64]
    groups: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> FeatureSet:
        """Returns some photos, their labels numbered anew."""
        targets = np.unique(self.targets[rows], return_inverse=True)[1].astype(np.int64)
        return FeatureSet(
            name=self.name,
            features=self.features[rows],
            targets=targets,
            groups=self.groups[rows],
        )


def feature_sets(
    work: Path, photos: Path, data: Path, model: str, weights: str | None
) -> tuple[dict[str, FeatureSet], dict[str, FeatureSet]]:
    """Returns labeled sets and strangers by name; computes what is not in `work`."""
    folders = {**_labeled(work, photos, data), **_strangers(work, photos)}
    found = {name: _features(work, name, root, model, weights) for name, root in folders.items()}
    labeled = {name: one for name, one in found.items() if len(np.unique(one.targets)) > 1}
    return labeled, {name: one for name, one in found.items() if name not in labeled}


def _features(work: Path, name: str, root: Path, model: str, weights: str | None) -> FeatureSet:
    file = work / f"{model}-{name}.npz"
    if not file.exists():
        catalog = work / "catalogs" / name / "catalog.sqlite3"
        collection = scan(root, catalog=catalog)
        found = embed(root, collection.photos, catalog=catalog, model=model, weights=weights)
        labels = [photo.labels[0] if photo.labels else "" for photo in found.photos]
        np.savez(
            file,
            features=found.features.astype(np.float64),
            targets=np.unique(labels, return_inverse=True)[1],
            groups=np.unique(photo_groups(found.photos), return_inverse=True)[1],
        )
        print(name, found.features.shape, flush=True)
    with np.load(file) as saved:
        return FeatureSet(name=name, **{key: saved[key] for key in saved.files})


def _labeled(work: Path, photos: Path, data: Path) -> dict[str, Path]:
    folders = {"hymenoptera": photos / "hymenoptera", "birds5": photos / "birds5" / "train"}
    folders |= {name: photos / "dev" / name for name in ("flowers5", "pets3", "signs10")}
    for name, count in PER_LABEL.items():
        folders[name] = work / "sets" / name
        if not folders[name].exists():
            _sample(data / f"{name}.zip", folders[name], count)
    folders["drawn birds"] = work / "sets" / "drawn"
    if not folders["drawn birds"].exists():
        draw_collection(folders["drawn birds"], photos_per_species=40, size=(600, 400), workers=1)
    return folders


def _sample(archive_file: Path, folder: Path, count: int) -> None:
    taken: dict[str, int] = {}
    with zipfile.ZipFile(archive_file) as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if "test" not in parts or not parts[-1] or taken.get(parts[-2], 0) == count:
                continue
            taken[parts[-2]] = taken.get(parts[-2], 0) + 1
            target = folder / parts[-2] / parts[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def _strangers(work: Path, photos: Path) -> dict[str, Path]:
    root = work / "strangers"
    if not root.exists():
        other = root / "unlabelled"
        other.mkdir(parents=True)
        for file in sorted((photos / "unlabelled").iterdir())[::6]:
            shutil.copy2(file, other)
        for kind in ("noise", "text", "blank"):
            (root / kind).mkdir()
            for seed in range(SYNTHETIC):
                picture = _synthetic(kind, np.random.default_rng((seed, len(kind))))
                picture.save(root / kind / f"{seed:03}.png")
    return {folder.name: folder for folder in sorted(root.iterdir())}


def _synthetic(kind: str, rng: np.random.Generator) -> Image.Image:
    """Returns noise, a page of text, or a frame of nearly one color, ``(256, 256)`` pixels."""
    if kind == "noise":
        noise = rng.integers(0, 256, (256, 256, 3), np.uint8)
        radius = float(rng.choice([0, 2]))
        return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(radius))
    color = tuple(int(value) for value in rng.integers(0, 256, 3))
    if kind == "blank":
        frame = np.clip(np.array(color) + rng.normal(0, rng.choice([0, 3]), (256, 256, 3)), 0, 255)
        return Image.fromarray(frame.astype(np.uint8))
    page = Image.new("RGB", (256, 256), (255, 255, 255) if rng.random() < 0.7 else color)
    draw = ImageDraw.Draw(page)
    ink = (0, 0, 0) if sum(page.getpixel((0, 0))) > 300 else (255, 255, 255)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    for line in range(12):
        draw.text((10, 8 + 20 * line), "".join(rng.choice(letters, 36)), ink, font_size=14)
    return page
