from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.errors import DecodeError
from finetune.web.annotate.thumbnails import Kind, Thumbnails


def test_thumbnails_are_upright_small_cached_and_without_exif(tmp_path: Path) -> None:
    image = Image.new("RGB", (900, 600), (200, 30, 30))
    image.paste((30, 30, 200), (0, 0, 450, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to be upright
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    path = tmp_path / "photo.jpg"
    image.save(path, exif=exif)
    copies = Thumbnails(tmp_path / "copies")
    sizes: dict[Kind, tuple[int, int]] = {"thumb": (213, 320), "view": (600, 900)}
    for kind, size in sizes.items():
        jpeg = copies.get(path, "ab12", kind)
        copy: Any = Image.open(io.BytesIO(jpeg))
        assert copy.size == size
        assert not copy.getexif()
        assert b"Maker" not in jpeg
        top, bottom = copy.getpixel((10, 10)), copy.getpixel((10, copy.height - 10))
        assert top[2] > 150 > top[0]
        assert bottom[0] > 150 > bottom[2]
    path.unlink()
    assert copies.get(path, "ab12", "thumb") == copies.get(path, "ab12", "thumb")
    with pytest.raises(DecodeError):
        copies.get(path, "cd34", "thumb")


def test_previews_are_not_upscaled_from_a_reduced_decode(tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    Image.effect_noise((4000, 1000), 60).convert("RGB").save(path)
    jpeg = Thumbnails(tmp_path / "copies").get(path, "ab12", "view", size=(4000, 1000))
    assert Image.open(io.BytesIO(jpeg)).size == (1600, 400)


def test_thumbnails_work_without_a_writable_cache(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (50, 40)).save(path)
    (tmp_path / "copies").write_text("a file where the folder would be")
    assert Thumbnails(tmp_path / "copies").get(path, "ab12", "thumb")[:2] == b"\xff\xd8"
