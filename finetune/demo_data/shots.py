"""Which photos the owner took, when, with which camera, and how it was held: no pixels yet."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.demo_data.camera import CAMERAS, TURN_LEFT, TURN_RIGHT, UPRIGHT, UPSIDE_DOWN
from finetune.demo_data.species import SPECIES

COLLECTION, UNSEEN, CORRUPT = 1, 2, 3
"""Second number of an encounter's seed, so that no two kinds of photo share one."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An order to the camera: everything that one file follows from."""

    path: str
    species: int
    encounter: tuple[int, ...]
    index: int
    size: tuple[int, int]
    orientation: int
    taken_at: dt.datetime
    camera: int
    number: int
    """Counts the encounters of the collection."""


def plan_shots(
    species: int, photos: int, seed: int, size: tuple[int, int], flaws: bool
) -> list[Shot]:
    """Returns every shot of the collection, in the order in which it was taken."""
    rng = np.random.default_rng([seed, COLLECTION])
    shots: list[Shot] = []
    number = 0
    for kind in range(species):
        for order, length in enumerate(_bursts(photos, rng) if flaws else [1] * photos):
            orientation, portrait = _turn(kind, order, flaws, rng)
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
    return _name(_date(shots, number, rng))


def _bursts(photos: int, rng: np.random.Generator) -> list[int]:
    """Returns the lengths of the encounters: about a quarter of the photos come in bursts."""
    lengths: list[int] = []
    while sum(lengths) < photos:
        first = not lengths and photos >= 4
        length = int(rng.integers(2, 5)) if first or rng.random() < 0.1 else 1
        lengths.append(min(length, photos - sum(lengths)))
    return lengths


def _turn(kind: int, order: int, flaws: bool, rng: np.random.Generator) -> tuple[int, bool]:
    """Returns EXIF orientation, and whether the photo is upright a portrait."""
    draw, side = rng.random(), rng.random()
    if not flaws:
        return UPRIGHT, bool(draw < 0.15)
    if order == 0 and kind < 3:
        # However small the collection, it has one of each.
        return ((TURN_RIGHT, True), (TURN_LEFT, True), (UPSIDE_DOWN, False))[kind]
    if draw < 0.15:
        return (TURN_RIGHT if side < 0.7 else TURN_LEFT), True
    return (UPSIDE_DOWN if draw > 0.97 else UPRIGHT), False


def _date(shots: Sequence[Shot], encounters: int, rng: np.random.Generator) -> list[Shot]:
    """Gives each encounter a minute of an outing of its own, and its shots the seconds in it."""
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


def _name(shots: Iterable[Shot]) -> list[Shot]:
    """Numbers the files as the cameras do, in the order of the shots."""
    counters = [1041, 387]
    named = []
    for shot in shots:
        counters[shot.camera] += 1
        file = f"{CAMERAS[shot.camera].prefix}{counters[shot.camera]:04d}.jpg"
        named.append(dataclasses.replace(shot, path=f"{SPECIES[shot.species].name}/{file}"))
    return named
