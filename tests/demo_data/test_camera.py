from __future__ import annotations

import datetime as dt
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from finetune.demo_data.camera import CAMERAS, develop, encode

MOMENT = dt.datetime(2024, 6, 2, 8, 30, 15, 470_000)


@pytest.fixture
def ramp() -> Image.Image:
    """Red grows to the right, green downwards, so that every turn looks different."""
    y, x = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([x * 2, y * 3, 0 * x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_viewer_that_obeys_exif_sees_the_photo_upright(
    ramp: Image.Image, orientation: int
) -> None:
    data = encode(ramp, camera=CAMERAS[0], taken_at=MOMENT, orientation=orientation)
    stored = Image.open(io.BytesIO(data))
    assert stored.getexif()[0x0112] == orientation
    assert stored.size == ((64, 96) if orientation in (6, 8) else (96, 64))
    upright = np.asarray(ImageOps.exif_transpose(stored), np.int16)
    assert np.abs(upright - np.asarray(ramp, np.int16)).mean() < 2


def test_a_photo_carries_camera_and_time(ramp: Image.Image) -> None:
    data = encode(ramp, camera=CAMERAS[1], taken_at=MOMENT)
    exif = Image.open(io.BytesIO(data)).getexif()
    assert (exif[0x010F], exif[0x0110]) == ("Merlin", "Merlin Pocket 3")
    details = exif.get_ifd(0x8769)
    assert details[0x9003] == "2024:06:02 08:30:15"
    assert details[0x9291] == "47"
    assert (details[0xA002], details[0xA003]) == (96, 64)


def test_shots_of_one_encounter_differ_by_noise_alone(ramp: Image.Image) -> None:
    def exposed(shot: int) -> NDArray[np.float64]:
        photo = develop(
            ramp, encounter=np.random.default_rng(4), shot=np.random.default_rng([4, shot])
        )
        return np.asarray(photo, np.float64)

    difference = exposed(0) - exposed(1)
    assert difference.any()
    assert abs(difference.mean()) < 0.5
