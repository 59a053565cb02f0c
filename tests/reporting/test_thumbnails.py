from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DecodeError
from finetune.reporting.thumbnails import LONG_SIDE, SHORT_SIDE, make_thumbnail, make_thumbnails


def save(path, width, height, **options):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (200, 40, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("width", "height"), [(1200, 900), (900, 1200), (3000, 300), (100, 80), (181, 5)]
)
def test_a_thumbnail_keeps_the_shape_within_its_bounds(tmp_path, width, height):
    made = opened(make_thumbnail(save(tmp_path / "p.png", width, height)))
    assert made.format == "JPEG"
    assert min(made.size) <= SHORT_SIDE
    assert max(made.size) <= LONG_SIDE
    assert made.width <= width
    scale = made.width / width
    assert abs(made.height - height * scale) <= 1


def test_a_thumbnail_holds_nothing_that_the_camera_wrote(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[0x8825] = {2: (52.0, 31.0, 12.0)}
    path = save(tmp_path / "p.jpg", 400, 300, exif=exif, comment=b"SecretComment", dpi=(300, 300))
    assert b"SecretCamera" in path.read_bytes()
    content = make_thumbnail(path)
    assert not opened(content).getexif()
    assert b"Secret" not in content
    assert b"Exif" not in content


def test_a_sideways_photo_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    made = opened(make_thumbnail(save(tmp_path / "p.jpg", 400, 300, exif=exif)))
    assert made.height > made.width
    left, right = made.getpixel((5, 60)), made.getpixel((made.width - 6, 60))
    assert right[0] > 150 > left[0]


def test_bad_photos_are_named_with_their_reason_and_good_ones_made(tmp_path):
    save(tmp_path / "in" / "good.jpg", 300, 300)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no photo at all")
    save(tmp_path / "secret.jpg", 30, 30)
    seen = []
    made, failed = make_thumbnails(
        tmp_path / "in",
        ["good.jpg", "bad.jpg", "gone.jpg", "../secret.jpg"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert list(made) == ["good.jpg"]
    assert set(failed) == {"bad.jpg", "gone.jpg", "../secret.jpg"}
    assert failed["../secret.jpg"] == "lies outside the collection"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_bad_photo_alone_raises(tmp_path):
    with pytest.raises(DecodeError):
        make_thumbnail(b"nothing")
