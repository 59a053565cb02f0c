from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.demo_data import SPECIES, composition
from finetune.demo_data.composition import Box, Tile
from finetune.demo_data.species import Species

SIZE = (180, 120)


def compose(species: Species, seed: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, Box]:
    return composition.compose(
        species, size, encounter=np.random.default_rng(seed), shot=np.random.default_rng(seed + 1)
    )


@pytest.mark.parametrize("species", SPECIES, ids=[species.name for species in SPECIES])
@pytest.mark.parametrize("size", [(180, 120), (100, 150), (48, 48)])
def test_birds_are_whole_in_the_frame(species: Species, size: tuple[int, int]) -> None:
    for seed in range(4):
        photo, (left, top, right, bottom) = compose(species, seed, size)
        assert photo.size == size
        assert photo.mode == "RGB"
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("species", SPECIES, ids=[species.name for species in SPECIES])
def test_the_box_is_where_the_photo_differs_from_the_empty_scene(
    species: Species, monkeypatch: pytest.MonkeyPatch
) -> None:
    flying = dataclasses.replace(species, poses={"flying": 1.0})
    photo, (left, top, right, bottom) = compose(flying, seed=9)
    real_paint = composition.paint

    def paint_nothing(*args: Any, **options: Any) -> Tile:
        tile = real_paint(*args, **options)
        return dataclasses.replace(tile, image=Image.new("RGBA", tile.image.size))

    monkeypatch.setattr(composition, "paint", paint_nothing)
    empty, _ = compose(flying, seed=9)
    change = np.abs(np.asarray(photo, np.int16) - np.asarray(empty, np.int16)).max(axis=2) > 30
    rows, columns = np.nonzero(change.any(axis=1))[0], np.nonzero(change.any(axis=0))[0]
    seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    np.testing.assert_allclose((left, top, right, bottom), seen, atol=4)


def test_heights_spread_between_a_tenth_and_half_of_the_frame() -> None:
    heights = []
    for seed in range(40):
        _, (_, top, _, bottom) = compose(SPECIES[2], seed)
        heights.append((bottom - top) / SIZE[1])
    assert min(heights) >= 0.08
    assert max(heights) <= 0.52
    assert max(heights) - min(heights) > 0.2


def test_birds_are_often_off_center() -> None:
    centers: list[float] = []
    for seed in range(40):
        _, (left, _, right, _) = compose(SPECIES[2], seed)
        centers.append((left + right) / 2 / SIZE[0])
    assert sum(abs(center - 0.5) > 0.15 for center in centers) > 15
    assert min(centers) < 0.35
    assert max(centers) > 0.65


def test_left_and_right_are_both_faced() -> None:
    facing = {composition._frame(np.random.default_rng(seed)).mirrored for seed in range(20)}
    assert facing == {True, False}


def test_no_two_species_look_alike_to_the_pixel() -> None:
    photos = {compose(species, seed=3)[0].tobytes() for species in SPECIES}
    assert len(photos) == len(SPECIES)
