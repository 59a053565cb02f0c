"""A small drawn collection with the truth about it, and the embedded backbone, made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from finetune.aviary import Aviary, draw_collection
from finetune.curation.embedding import load_backbone
from finetune.models.factory import LoadedModel
from finetune.photos.collection import Photo
from finetune.photos.crop import Crop


@pytest.fixture(scope="session")
def backbone() -> LoadedModel:
    """The embedded backbone."""
    return load_backbone()


@pytest.fixture(scope="session")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Aviary:
    """Four species, six photos each, no flaws."""
    folder = tmp_path_factory.mktemp("aviary") / "photos"
    return draw_collection(
        folder, species=4, photos_per_species=6, seed=3, size=(450, 300), flaws=False, workers=1
    )


@pytest.fixture
def birds(aviary: Aviary) -> Path:
    """The folder of that collection."""
    return aviary.folder


@pytest.fixture(scope="session")
def at_their_birds() -> Callable[[Aviary, Sequence[Photo]], list[Photo]]:
    """Returns a function that gives drawn photos crops around their birds."""

    def look_at(aviary: Aviary, photos: Sequence[Photo]) -> list[Photo]:
        truth = {drawn.path: drawn for drawn in aviary.photos}
        return [
            dataclasses.replace(
                photo,
                crop=Crop.from_box(truth[photo.path].box, photo.width, photo.height),
            )
            for photo in photos
        ]

    return look_at
