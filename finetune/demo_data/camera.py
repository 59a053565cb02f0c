"""Camera effects: exposure, white balance, vignetting, noise, and EXIF."""

from __future__ import annotations

import datetime as dt
import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Camera in the demo collection."""

    maker: str
    model: str
    prefix: str
    """Prefix of its file names."""
    focal_length: float


CAMERAS = (
    Camera(maker="Merlin", model="Merlin D7", prefix="DSC0", focal_length=400.0),
    Camera(maker="Merlin", model="Merlin Pocket 3", prefix="IMG_", focal_length=200.0),
)
UPRIGHT, UPSIDE_DOWN, TURN_RIGHT, TURN_LEFT = 1, 3, 6, 8
"""EXIF orientations: the turn that makes the stored pixels upright."""
_STORED = {
    UPSIDE_DOWN: Image.Transpose.ROTATE_180,
    TURN_RIGHT: Image.Transpose.ROTATE_90,
    TURN_LEFT: Image.Transpose.ROTATE_270,
}


def develop(
    photo: Image.Image, *, encounter: np.random.Generator, shot: np.random.Generator
) -> Image.Image:
    """Returns the photo as exposed: light from `encounter`, noise and shake from `shot`."""
    exposure = float(np.exp(encounter.normal(0, 0.16)))
    warmth = float(encounter.normal(0, 0.05))
    gamma = float(np.exp(encounter.normal(0.14, 0.08)))
    noise = int(encounter.integers(0, 3))
    vignetted = encounter.random() < 0.6
    blurred = encounter.random() < 0.12
    ramp = np.linspace(0, 1, 256) ** gamma * 255 * exposure
    curve = [
        np.clip(255 * np.tanh(ramp * gain / 255) / np.tanh(1.0), 0, 255)
        .round()
        .astype(int)
        .tolist()
        for gain in (1 + warmth, 1.0, 1 - warmth)
    ]
    photo = photo.point(curve[0] + curve[1] + curve[2])
    if vignetted:
        photo = ImageChops.multiply(photo, _vignette(photo.size))
    if blurred:
        photo = photo.filter(ImageFilter.GaussianBlur(0.0016 * max(photo.size)))
    grain = _grain(noise)
    left, top = shot.integers(0, grain.width // 2, 2).tolist()
    return ImageChops.add(photo, _tiled(grain, (left, top), photo.size), scale=1, offset=-128)


@lru_cache(maxsize=4)
def _vignette(size: tuple[int, int]) -> Image.Image:
    y, x = np.mgrid[-1:1:33j, -1:1:49j]
    fall = 255 * (1 - 0.16 * (x**2 + y**2))
    small = Image.fromarray(fall.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.merge("RGB", (small,) * 3)


@lru_cache(maxsize=3)
def _grain(level: int) -> Image.Image:
    """Returns noise around mid-gray, made once per process: drawing it anew is slow."""
    rng = np.random.default_rng([735, level])
    luma = rng.normal(0, 1.6 + 1.8 * level, (512, 512, 1))
    chroma = rng.normal(0, 0.8 + 0.8 * level, (512, 512, 3))
    return Image.fromarray(np.clip(128 + luma + chroma, 0, 255).astype(np.uint8))


def _tiled(grain: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    field = Image.new("RGB", size)
    for x in range(-corner[0], size[0], grain.width):
        for y in range(-corner[1], size[1], grain.height):
            field.paste(grain, (x, y))
    return field


def encode(
    photo: Image.Image, *, camera: Camera, taken_at: dt.datetime, orientation: int = UPRIGHT
) -> bytes:
    """Returns the JPEG that `camera` writes for the upright `photo`."""
    stored = photo.transpose(_STORED[orientation]) if orientation in _STORED else photo
    stamp = taken_at.strftime("%Y:%m:%d %H:%M:%S")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = camera.maker, camera.model
    exif[0x0112] = orientation
    exif[0x0132] = stamp
    details = exif.get_ifd(0x8769)
    details[0x9003] = details[0x9004] = stamp
    details[0x9291] = f"{taken_at.microsecond // 10_000:02d}"
    details[0x829A] = 1 / (640 + 20 * taken_at.minute)
    details[0x829D] = 5.6
    details[0x8827] = 200 + 200 * (taken_at.minute % 5)
    details[0x920A] = camera.focal_length
    details[0xA002], details[0xA003] = stored.size
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=88, exif=exif)
    return file.getvalue()
