from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

Draw = Callable[..., NDArray[np.uint8]]
WritePhoto = Callable[..., Path]


def draw_image(seed: int = 0, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A smooth picture without symmetry: big soft blobs on a slope, the same for the same seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    y, x = y / height, x / width
    image = np.empty((height, width, 3))
    for channel in range(3):
        plane = 60 * x + 40 * y * rng.uniform(0.3, 1)
        for _ in range(6):
            center_x, center_y, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.3)
            distance = ((x - center_x) ** 2 + (y - center_y) ** 2) / radius**2
            plane = plane + rng.uniform(40, 160) * np.exp(-distance)
        image[..., channel] = plane
    image *= 245 / image.max()
    return image.astype(np.uint8)


def write_image(
    path: Path,
    image: NDArray[np.uint8] | Image.Image | int = 0,
    *,
    orientation: int | None = None,
    taken_at: str | None = None,
    camera: tuple[str, str] | None = None,
    **options: Any,
) -> Path:
    """Writes a picture (or the drawn one of a seed) with EXIF; the ending chooses the format."""
    if isinstance(image, int):
        image = draw_image(image)
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    if camera is not None:
        exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = camera
    if taken_at is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken_at
    if len(exif) or taken_at is not None:
        options["exif"] = exif
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture(scope="session")
def draw() -> Draw:
    return draw_image


@pytest.fixture(scope="session")
def write_photo() -> WritePhoto:
    return write_image


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Two labels of three photos each, all different."""
    root = tmp_path / "birds"
    for number, name in enumerate(("heron", "gull")):
        for index in range(3):
            write_image(root / name / f"{index}.jpg", 10 * number + index)
    return root


@pytest.fixture
def shared_photos() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
    if not folder.is_dir():
        pytest.skip("the shared photos are not beside this checkout")
    return folder
