"""Demo collection: a folder of drawn photos with the flaws of a real one.

The same seed and the same version of Pillow give the same bytes with any number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.demo_data.camera import CAMERAS, TURN_LEFT, TURN_RIGHT, UPRIGHT, UPSIDE_DOWN, encode
from finetune.demo_data.composition import Box, compose
from finetune.demo_data.species import DUSK_FINCH, EMBER_FINCH, SPECIES, Species
from finetune.errors import CollectionError, ConfigError
from finetune.files import storage_errors

Progress = Callable[[int, int], None]
_POOL_WORTHWHILE_PIXELS = 16_000_000
"""Below this total, starting processes takes longer than they save."""


COLLECTION, UNSEEN, CORRUPT = 1, 2, 3
"""Second number of an encounter's seed, so that the kinds of photo never share one."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Everything that determines one file."""

    path: str
    species: int
    encounter: tuple[int, ...]
    index: int
    size: tuple[int, int]
    orientation: int
    taken_at: dt.datetime
    camera: int
    number: int
    """Number of the encounter within the collection."""


def plan_shots(
    species: int, photos: int, seed: int, size: tuple[int, int], flaws: bool
) -> list[Shot]:
    """Returns every shot of the collection, in the order of exposure."""
    rng = np.random.default_rng([seed, COLLECTION])
    shots: list[Shot] = []
    number = 0
    for kind in range(species):
        for order, length in enumerate(_bursts(photos, rng) if flaws else [1] * photos):
            orientation, portrait = _orientation(kind, order, flaws, rng)
            for index in range(length):
                shots.append(
                    Shot(
                        path="",
                        species=kind,
                        encounter=(seed, COLLECTION, kind, order),
                        index=index,
                        size=(min(size), max(size)) if portrait else size,
                        orientation=orientation,
                        taken_at=dt.datetime.min,
                        camera=0,
                        number=number,
                    )
                )
            number += 1
    return _with_names(_with_times(shots, number, rng))


def _bursts(photos: int, rng: np.random.Generator) -> list[int]:
    """Returns the lengths of the encounters: about a quarter of the photos come in bursts."""
    lengths: list[int] = []
    while sum(lengths) < photos:
        first = not lengths and photos >= 4
        length = int(rng.integers(2, 5)) if first or rng.random() < 0.1 else 1
        lengths.append(min(length, photos - sum(lengths)))
    return lengths


def _orientation(kind: int, order: int, flaws: bool, rng: np.random.Generator) -> tuple[int, bool]:
    """Returns the EXIF orientation, and whether the upright photo is a portrait."""
    draw, side = rng.random(), rng.random()
    if not flaws:
        return UPRIGHT, bool(draw < 0.15)
    if order == 0 and kind < 3:
        # Even the smallest collection has one of each.
        return ((TURN_RIGHT, True), (TURN_LEFT, True), (UPSIDE_DOWN, False))[kind]
    if draw < 0.15:
        return (TURN_RIGHT if side < 0.7 else TURN_LEFT), True
    return (UPSIDE_DOWN if draw > 0.97 else UPRIGHT), False


def _with_times(shots: Sequence[Shot], encounters: int, rng: np.random.Generator) -> list[Shot]:
    """Returns the shots with times: a minute for each encounter, seconds within it."""
    outings = max(6, -(-encounters // 240))
    days = np.sort(rng.choice(150 + outings, outings, replace=False))
    minutes = rng.choice(outings * 720, encounters, replace=False)
    dated = []
    for shot in shots:
        day, minute = divmod(int(minutes[shot.number]), 720)
        start = dt.datetime(2024, 4, 27, 7) + dt.timedelta(days=int(days[day]), minutes=minute)
        moment = start + dt.timedelta(seconds=3 + 1.4 * shot.index)
        dated.append(dataclasses.replace(shot, taken_at=moment, camera=day % len(CAMERAS)))
    return sorted(dated, key=lambda shot: shot.taken_at)


def _with_names(shots: Iterable[Shot]) -> list[Shot]:
    """Returns the shots with file names, numbered as cameras do."""
    counters = [1041, 387]
    named = []
    for shot in shots:
        counters[shot.camera] += 1
        file = f"{CAMERAS[shot.camera].prefix}{counters[shot.camera]:04d}.jpg"
        named.append(dataclasses.replace(shot, path=f"{SPECIES[shot.species].name}/{file}"))
    return named


@dataclass(frozen=True, kw_only=True)
class DrawnPhoto:
    """Ground truth of one drawn photo.

    Attributes:
        path: Relative to the collection's root, with ``/``.
        species: Species shown; for a misfiled photo not the folder's name.
        box: Left, top, right, bottom of the visible bird in pixels of the upright photo.
        width: Pixels of the upright photo.
        height: Pixels of the upright photo.
        orientation: EXIF orientation; 1 for pixels stored upright.
        taken_at: EXIF time, ISO format.
        encounter: Number shared by the photos of one burst.
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
class DemoCollection:
    """Ground truth of a drawn collection.

    Attributes:
        folder: Root of the collection.
        labels: Names of the species, in drawing order.
        photos: Every readable file, sorted by path; a photo filed twice is listed twice.
        filed_twice: The two paths of the photo filed under two labels, if any.
        corrupt: Files that cannot be decoded.
    """

    folder: Path
    labels: tuple[str, ...]
    photos: tuple[DrawnPhoto, ...]
    filed_twice: tuple[str, str] | None
    corrupt: tuple[str, ...]


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
) -> DemoCollection:
    """Draws a collection of bird photos, one folder per species, into a new or empty folder.

    Args:
        folder: Parent of the label folders.
        species: Number of species, 1 to 8.
        photos_per_species: Number of photos in each label folder.
        seed: Determines every pixel.
        size: Width and height of an upright landscape photo in pixels.
        flaws: Whether to add what real collections have: bursts of near-duplicates, photos stored
            sideways, one photo filed under two labels, one corrupt file. The last two come on top
            of `photos_per_species`.
        workers: Processes; None means one per core for a large collection, else one.
        progress: Called with the number of photos drawn so far and the total.

    Returns:
        Ground truth, with the box of each bird.

    Raises:
        ConfigError: A number is out of range.
        CollectionError: The folder is not empty.
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
    drawn = _draw_all(folder, shots, workers=workers, progress=progress)
    filed_twice: tuple[str, str] | None = None
    corrupt: tuple[str, ...] = ()
    if flaws:
        if species > 1:
            copy = _misfile(folder, drawn, labels)
            filed_twice = (copy[0].path, copy[1].path)
            drawn.append(copy[1])
        corrupt = (_write_truncated(folder, seed, size, shots),)
    photos = tuple(sorted(drawn, key=lambda photo: photo.path))
    return DemoCollection(
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
    """Draws photos that are in no collection, one species after another.

    Args:
        folder: Parent of ``unseen_01.jpg`` and so on; created when missing.
        count: Number of photos.
        species: Number of species, 1 to 8.
        seed: Determines every pixel; no seed repeats a photo of `draw_collection`.
        size: Width and height in pixels.

    Returns:
        Ground truth of each photo.

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
    return tuple(_draw_all(folder, shots, workers=1, progress=None))


def draw_bird(
    species: str, rng: np.random.Generator, size: tuple[int, int] = (1200, 800)
) -> tuple[Image.Image, Box]:
    """Draws one photo of the named species.

    Args:
        species: Name of one of `SPECIES`.
        rng: Determines every pixel.
        size: Width and height in pixels.

    Returns:
        The RGB photo, and left, top, right, bottom of the bird in pixels.

    Raises:
        ConfigError: The species is unknown.
    """
    kind = next((kind for kind in SPECIES if kind.name == species), None)
    if kind is None:
        known = ", ".join(kind.name for kind in SPECIES)
        raise ConfigError(f"The demo data has no species '{species}'. Choose one of: {known}.")
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
        raise ConfigError("The demo data cannot be drawn: " + "; ".join(problems) + ".")


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} is not an empty folder, and drawn birds must not mix with other photos. "
            f"Choose a new folder."
        )


def _draw_all(
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
        collect(_draw(folder, shot) for shot in shots)
    else:
        # Spawned, since a fork of a process that has loaded torch may hang in its threads.
        context = multiprocessing.get_context("spawn")
        with (
            _main_not_imported(),
            # Ctrl-C at a terminal reaches them too; this process ends them.
            ProcessPoolExecutor(
                workers,
                mp_context=context,
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),
            ) as pool,
        ):
            collect(pool.map(_draw, [folder] * len(shots), shots, chunksize=4))
    return drawn


@contextlib.contextmanager
def _main_not_imported() -> Iterator[None]:
    """Keeps spawned processes from running the main script again, which they do not need.

    A script without ``if __name__ == "__main__"`` would draw its collection in each of them.
    """
    main: dict[str, object] = vars(sys.modules["__main__"])
    hidden: dict[str, object] = {
        name: main.pop(name) for name in ("__file__", "__spec__") if name in main
    }
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _draw(folder: Path, shot: Shot) -> DrawnPhoto:
    data, box = _render(shot)
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


def _render(shot: Shot) -> tuple[bytes, Box]:
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
    """Files one photo under a second label as well, like a person unsure between two finches."""
    pair: tuple[Species, Species] = (SPECIES[0], SPECIES[1])
    if DUSK_FINCH.name in labels:
        pair = (EMBER_FINCH, DUSK_FINCH)
    original = [photo for photo in drawn if photo.species == pair[0].name][-1]
    path = f"{pair[1].name}/{original.path.rpartition('/')[2]}"
    with storage_errors(folder / path):
        (folder / path).write_bytes((folder / original.path).read_bytes())
    return original, dataclasses.replace(original, path=path)


def _write_truncated(folder: Path, seed: int, size: tuple[int, int], shots: Sequence[Shot]) -> str:
    """Writes a truncated photo and returns its path."""
    last = shots[-1]
    later = last.taken_at + dt.timedelta(minutes=2)
    name, digits = CAMERAS[last.camera].prefix, int(last.path[-8:-4]) + 1
    path = f"{SPECIES[0].name}/{name}{digits:04d}.jpg"
    lost = dataclasses.replace(
        last, species=0, encounter=(seed, CORRUPT), index=0, size=size, taken_at=later
    )
    data, _ = _render(lost)
    with storage_errors(folder / path):
        (folder / path).write_bytes(data[: len(data) * 2 // 5])
    return path
