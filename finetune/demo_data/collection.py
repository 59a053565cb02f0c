"""The example collection: a folder of drawn photos with the flaws of a real one.

Everything follows from the seed: the same seed and the same Pillow give the same bytes, with any
number of workers.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.demo_data.camera import CAMERAS, UPRIGHT, encode
from finetune.demo_data.composition import Box, compose
from finetune.demo_data.shots import CORRUPT, UNSEEN, Shot, plan_shots
from finetune.demo_data.species import DUSK_FINCH, EMBER_FINCH, SPECIES, Species
from finetune.errors import CollectionError, ConfigError
from finetune.files import storage_errors, write_json

Progress = Callable[[int, int], None]
_POOL_WORTHWHILE_PIXELS = 16_000_000
"""Below this many pixels in all, starting processes takes longer than they save."""


@dataclass(frozen=True, kw_only=True)
class DrawnPhoto:
    """The truth about one drawn photo.

    Attributes:
        path: Relative to the folder it was drawn into, with ``/``.
        species: What it shows, which for a misfiled photo is not the folder's name.
        box: Left, top, right, bottom of the visible bird in pixels of the upright photo.
        width: Of the upright photo, in pixels.
        height: Of the upright photo, in pixels.
        orientation: EXIF orientation, 1 for pixels stored upright.
        taken_at: EXIF time, ISO format.
        encounter: Photos of one burst share this number.
    """

    path: str
    species: str
    box: Box
    width: int
    height: int
    orientation: int
    taken_at: str
    encounter: int


@dataclass(frozen=True, kw_only=True)
class Aviary:
    """What was drawn.

    Attributes:
        folder: The collection's root.
        labels: The species, in drawing order.
        photos: Every readable file, sorted by path; a photo filed twice is there twice.
        filed_twice: The two paths of the photo that is under two labels, if there is one.
        corrupt: Files that cannot be decoded.
    """

    folder: Path
    labels: tuple[str, ...]
    photos: tuple[DrawnPhoto, ...]
    filed_twice: tuple[str, str] | None
    corrupt: tuple[str, ...]

    def write_truth(self, path: Path) -> Path:
        """Writes species, box and the rest of each photo as JSON; raises StorageError."""
        value = dataclasses.asdict(self)
        del value["folder"]
        return write_json(path, value)


def draw_collection(
    folder: Path,
    *,
    species: int = len(SPECIES),
    photos_per_species: int = 40,
    seed: int = 0,
    size: tuple[int, int] = (1200, 800),
    flaws: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Aviary:
    """Draws a collection of bird photos, one folder a species, into a new or empty folder.

    Args:
        folder: Where the label folders go.
        species: How many species, 1 to 8.
        photos_per_species: Photos in each label folder.
        seed: Decides every pixel.
        size: Width and height of an upright landscape photo in pixels.
        flaws: Whether to add what real collections have: bursts of near-duplicates, photos stored
            sideways, one photo filed under two labels as well, one corrupt file. The last two come
            on top of `photos_per_species`.
        workers: Processes; None: one a core for large collections, else the present one.
        progress: Called with the photos drawn so far and in all.

    Returns:
        What was drawn, with the box of each bird.

    Raises:
        ConfigError: A number is out of range.
        CollectionError: The folder holds something already.
        StorageError: A file could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     birds = draw_collection(Path(folder), species=2, photos_per_species=3)
        ...     birds.labels, len(birds.photos)
        (('カワセミ', 'mallard'), 7)
    """
    _check(species, photos_per_species, size)
    _require_empty(folder)
    labels = tuple(kind.name for kind in SPECIES[:species])
    shots = plan_shots(species, photos_per_species, seed, size, flaws)
    for label in labels:
        with storage_errors(folder / label):
            (folder / label).mkdir(parents=True, exist_ok=True)
    drawn = _shoot_all(folder, shots, workers=workers, progress=progress)
    filed_twice: tuple[str, str] | None = None
    corrupt: tuple[str, ...] = ()
    if flaws:
        if species > 1:
            copy = _misfile(folder, drawn, labels)
            filed_twice = (copy[0].path, copy[1].path)
            drawn.append(copy[1])
        corrupt = (_spoil(folder, seed, size, shots),)
    photos = tuple(sorted(drawn, key=lambda photo: photo.path))
    return Aviary(
        folder=folder, labels=labels, photos=photos, filed_twice=filed_twice, corrupt=corrupt
    )


def draw_unseen(
    folder: Path,
    *,
    count: int = 8,
    species: int = len(SPECIES),
    seed: int = 0,
    size: tuple[int, int] = (1200, 800),
) -> tuple[DrawnPhoto, ...]:
    """Draws photos of the same species that are in no collection, of each species in turn.

    Args:
        folder: Where ``unseen_01.jpg`` and so on go; made when missing.
        count: How many.
        species: How many species take turns, 1 to 8.
        seed: Decides every pixel; no seed repeats a photo of `draw_collection`.
        size: Width and height in pixels.

    Returns:
        The truth about each.

    Raises:
        ConfigError: A number is out of range.
        StorageError: A file could not be written.
    """
    _check(species, count, size)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    noon = dt.datetime(2025, 4, 6, 12)
    shots = [
        Shot(
            path=f"unseen_{index + 1:02d}.jpg",
            species=index % species,
            encounter=(seed, UNSEEN, index),
            index=0,
            size=size,
            orientation=UPRIGHT,
            taken_at=noon + dt.timedelta(minutes=7 * index),
            camera=0,
            number=index,
        )
        for index in range(count)
    ]
    return tuple(_shoot_all(folder, shots, workers=1, progress=None))


def draw_bird(
    species: str, rng: np.random.Generator, size: tuple[int, int] = (1200, 800)
) -> tuple[Image.Image, Box]:
    """Draws one photo of the named species.

    Args:
        species: One of `SPECIES`, by name.
        rng: Decides every pixel.
        size: Width and height in pixels.

    Returns:
        The RGB photo, and left, top, right, bottom of the bird in pixels.

    Raises:
        ConfigError: There is no such species.
    """
    kind = next((kind for kind in SPECIES if kind.name == species), None)
    if kind is None:
        known = ", ".join(kind.name for kind in SPECIES)
        raise ConfigError(f"The aviary has no species '{species}'. Choose one of: {known}.")
    encounter, shot = rng.spawn(2)
    return compose(kind, size, encounter=encounter, shot=shot)


def _check(species: int, photos: int, size: tuple[int, int]) -> None:
    problems = []
    if not 1 <= species <= len(SPECIES):
        problems.append(f"species must be 1 to {len(SPECIES)}, not {species}")
    if photos < 1:
        problems.append(f"the number of photos must be at least 1, not {photos}")
    if min(size) < 32:
        problems.append(f"the size must be at least 32x32 pixels, not {size[0]}x{size[1]}")
    if problems:
        raise ConfigError("The aviary cannot be drawn: " + "; ".join(problems) + ".")


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} is not an empty folder, and drawn birds must not mix with other photos. "
            f"Choose a new folder."
        )


def _shoot_all(
    folder: Path, shots: Sequence[Shot], *, workers: int | None, progress: Progress | None
) -> list[DrawnPhoto]:
    pixels = sum(shot.size[0] * shot.size[1] for shot in shots)
    if workers is None:
        workers = (os.cpu_count() or 1) if pixels > _POOL_WORTHWHILE_PIXELS else 1
    drawn: list[DrawnPhoto] = []

    def collect(photos: Iterable[DrawnPhoto]) -> None:
        for photo in photos:
            drawn.append(photo)
            if progress is not None:
                progress(len(drawn), len(shots))

    if workers <= 1:
        collect(_shoot(folder, shot) for shot in shots)
    else:
        # Spawned, since a fork of a process that has loaded torch may hang in its threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            collect(pool.map(_shoot, [folder] * len(shots), shots, chunksize=4))
    return drawn


def _shoot(folder: Path, shot: Shot) -> DrawnPhoto:
    data, box = _expose(shot)
    target = folder / shot.path
    with storage_errors(target):
        target.write_bytes(data)
    return DrawnPhoto(
        path=shot.path,
        species=SPECIES[shot.species].name,
        box=box,
        width=shot.size[0],
        height=shot.size[1],
        orientation=shot.orientation,
        taken_at=shot.taken_at.isoformat(timespec="seconds"),
        encounter=shot.number,
    )


def _expose(shot: Shot) -> tuple[bytes, Box]:
    photo, box = compose(
        SPECIES[shot.species],
        shot.size,
        encounter=np.random.default_rng(shot.encounter),
        shot=np.random.default_rng([*shot.encounter, shot.index]),
    )
    data = encode(
        photo,
        camera=CAMERAS[shot.camera],
        taken_at=shot.taken_at,
        orientation=shot.orientation,
    )
    return data, box


def _misfile(
    folder: Path, drawn: Sequence[DrawnPhoto], labels: Sequence[str]
) -> tuple[DrawnPhoto, DrawnPhoto]:
    """Files one photo under a second label too, as somebody unsure between two finches does."""
    pair: tuple[Species, Species] = (SPECIES[0], SPECIES[1])
    if DUSK_FINCH.name in labels:
        pair = (EMBER_FINCH, DUSK_FINCH)
    original = [photo for photo in drawn if photo.species == pair[0].name][-1]
    path = f"{pair[1].name}/{original.path.rpartition('/')[2]}"
    with storage_errors(folder / path):
        (folder / path).write_bytes((folder / original.path).read_bytes())
    return original, dataclasses.replace(original, path=path)


def _spoil(folder: Path, seed: int, size: tuple[int, int], shots: Sequence[Shot]) -> str:
    """Writes a photo whose copy from the card broke off, and returns its path."""
    last = shots[-1]
    later = last.taken_at + dt.timedelta(minutes=2)
    name, digits = CAMERAS[last.camera].prefix, int(last.path[-8:-4]) + 1
    path = f"{SPECIES[0].name}/{name}{digits:04d}.jpg"
    lost = dataclasses.replace(
        last, species=0, encounter=(seed, CORRUPT), index=0, size=size, taken_at=later
    )
    data, _ = _expose(lost)
    with storage_errors(folder / path):
        (folder / path).write_bytes(data[: len(data) * 2 // 5])
    return path
