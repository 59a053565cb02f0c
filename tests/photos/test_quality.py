from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from finetune.photos.quality import BLURRED_SHARPNESS, Quality, faults, measure

Draw = Callable[..., NDArray[np.uint8]]

GOOD = Quality(brightness=0.5, contrast=0.4, sharpness=0.1)


def reference(gray: np.ndarray) -> tuple[float, float, float]:
    """The figures by the formula, in float64, with the Laplacian as a sum over a 3 x 3 kernel."""
    levels = gray.astype(np.float64) / 255
    kernel = {(0, 1): 1, (2, 1): 1, (1, 0): 1, (1, 2): 1, (1, 1): -4}
    height, width = levels.shape
    laplacian = sum(
        weight * levels[row : height - 2 + row, column : width - 2 + column]
        for (row, column), weight in kernel.items()
    )
    energy = np.sqrt((np.asarray(laplacian) ** 2).mean() / (20 * levels.var()))
    return levels.mean(), 2 * levels.std(), energy


def test_figures_follow_the_formula(draw: Draw) -> None:
    gray = draw(3, 200, 150)[..., 0]
    found = measure(np.repeat(gray[..., None], 3, axis=2))
    expected = reference(gray)
    np.testing.assert_allclose(
        (found.brightness, found.contrast, found.sharpness), expected, rtol=1e-4
    )


def test_white_noise_has_sharpness_one() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (200, 200, 1)).clip(0, 255).astype(np.uint8)
    assert measure(np.repeat(noise, 3, axis=2)).sharpness == pytest.approx(1, abs=0.02)


def test_sharpness_does_not_depend_on_contrast_or_brightness(draw: Draw) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (260, 300, 1))
    image = np.clip(draw(5, 300, 260) + noise, 0, 255).astype(np.uint8)
    flat = (image * 0.3 + 20).astype(np.uint8)
    assert measure(flat).sharpness == pytest.approx(measure(image).sharpness, rel=0.05)


def test_black_and_white_are_the_ends_of_brightness() -> None:
    for level in (0, 255):
        plain = measure(np.full((80, 90, 3), level, np.uint8))
        assert (plain.brightness, plain.contrast, plain.sharpness) == (level / 255, 0, 0)
    half = np.zeros((80, 90, 3), np.uint8)
    half[:40] = 255
    assert measure(half).contrast == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 50, 3), (3, 3, 3)])
def test_smallest_photos_have_figures_too(shape: tuple[int, int, int]) -> None:
    figures = measure(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
    assert all(0 <= figure <= 1 for figure in (figures.brightness, figures.sharpness))


def test_sharpness_compares_across_sizes() -> None:
    rng = np.random.default_rng(0)
    detail = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    sizes = [
        np.array(detail.resize((side, side), Image.Resampling.NEAREST)) for side in (512, 2048)
    ]
    assert measure(sizes[0]).sharpness == pytest.approx(measure(sizes[1]).sharpness, rel=1e-3)


@pytest.mark.parametrize(
    ("quality", "size", "expected"),
    [
        (GOOD, (640, 480), ()),
        (None, (640, 480), ()),
        (Quality(brightness=0.05, contrast=0.1, sharpness=0.1), (640, 480), ("dark",)),
        (Quality(brightness=0.95, contrast=0.1, sharpness=0.1), (640, 480), ("bright",)),
        (Quality(brightness=0.5, contrast=0.01, sharpness=0.0), (640, 480), ("plain",)),
        (Quality(brightness=0.0, contrast=0.0, sharpness=0.0), (640, 480), ("dark", "plain")),
        (Quality(brightness=0.5, contrast=0.4, sharpness=0.01), (640, 480), ("blurred",)),
        (Quality(brightness=0.5, contrast=0.4, sharpness=0.01), (640, 40), ("tiny", "long")),
        (GOOD, (63, 64), ("tiny",)),
        (GOOD, (300, 100), ()),
        (GOOD, (301, 100), ("long",)),
        (GOOD, (100, 301), ("long",)),
    ],
)
def test_faults_are_named(
    quality: Quality | None, size: tuple[int, int], expected: tuple[str, ...]
) -> None:
    assert faults(quality, *size) == expected


@pytest.mark.shared
def test_real_photos_are_sharp_until_they_are_blurred(shared_photos: Path) -> None:
    paths = sorted((shared_photos / "hymenoptera" / "val").rglob("*.jpg"))[::8]
    blurred = 0
    for path in paths:
        image = Image.open(path).convert("RGB")
        assert measure(np.array(image)).sharpness > BLURRED_SHARPNESS
        radius = 2 * min(image.size) / 256
        soft = np.array(image.filter(ImageFilter.GaussianBlur(radius)))
        blurred += measure(soft).sharpness < BLURRED_SHARPNESS
    assert blurred / len(paths) > 0.9
