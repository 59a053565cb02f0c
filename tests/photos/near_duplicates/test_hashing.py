from __future__ import annotations

import io
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from finetune.photos.decode.decoder import decode_photo
from finetune.photos.near_duplicates.hashing import hash_image, hash_photo, hash_with_mirror

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "photos"

REFERENCE = {
    "perceptual": imagehash.phash,
    "average": imagehash.average_hash,
    "difference": imagehash.dhash,
    "wavelet": imagehash.whash,
}


def reference(kind: str, image: NDArray[np.uint8]) -> int:
    return int(str(REFERENCE[kind](Image.fromarray(image))), 16)


def bits_between(first: int, second: int) -> int:
    return (first ^ second).bit_count()


def scene(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Blobs of color on a slope, with grain: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    image = (
        np.full((height, width, 3), 90.0) + 60 * (x * rng.normal() + y * rng.normal())[..., None]
    )
    for _ in range(12):
        distance = (x - rng.random()) ** 2 + (y - rng.random()) ** 2
        blob = np.exp(-distance / rng.uniform(0.002, 0.05))
        image += blob[..., None] * rng.normal(0, 80, 3)
    noisy: NDArray[np.uint8] = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(
        np.uint8
    )
    return noisy


def ties_with_the_median(image: NDArray[np.uint8]) -> int:
    """Number of the 64 blocks of the wavelet hash that are as bright as the median block."""
    side = 2 ** int(np.log2(min(image.shape[:2])))
    gray = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    blocks = np.asarray(gray, dtype=np.int64).reshape(8, side // 8, 8, side // 8).sum(axis=(1, 3))
    return int((blocks == np.median(blocks)).sum())


@given(st.integers(0, 10_000), st.integers(9, 255), st.integers(9, 200))
@settings(max_examples=25, deadline=None)
def test_hashes_equal_imagehash_on_the_same_image(seed: int, width: int, height: int) -> None:
    image = scene(width, height, seed)
    hashes = hash_image(image)
    for kind in ("perceptual", "average", "difference"):
        assert getattr(hashes, kind) == reference(kind, image)
    # imagehash decides ties with the median by the rounding of its floats.
    distance = bits_between(hashes.wavelet, reference("wavelet", image))
    assert distance <= ties_with_the_median(image)


@pytest.mark.parametrize("kind", REFERENCE)
def test_mirror_hashes_equal_imagehash_of_the_mirrored_image(kind: str) -> None:
    # A resize sums left to right, so that a mirrored one may round a gray level another way.
    distances = []
    for seed in range(40):
        image = scene(120, 90, seed)
        mirrored = hash_with_mirror(image)[1]
        distances.append(
            bits_between(getattr(mirrored, kind), reference(kind, image[:, ::-1].copy()))
        )
    assert np.mean(np.array(distances) == 0) >= 0.95
    assert max(distances) <= 2


def test_hash_with_mirror_starts_with_the_hashes_of_the_image() -> None:
    image = scene(320, 240, 3)
    assert hash_with_mirror(image)[0] == hash_image(image)


@pytest.mark.parametrize("kind", REFERENCE)
def test_large_images_are_averaged_down_at_a_cost_of_few_bits(kind: str) -> None:
    distances = np.array(
        [
            bits_between(getattr(hash_image(image), kind), reference(kind, image))
            for image in (scene(640, 400, seed) for seed in range(10))
        ]
    )
    assert distances.mean() <= 2
    assert distances.max() <= 4


def test_draft_decoded_photo_hashes_within_two_bits_of_the_full_one(tmp_path: Path) -> None:
    distances = []
    for seed in range(6):
        path = tmp_path / f"{seed}.jpg"
        Image.fromarray(scene(1200, 900, seed)).save(path, quality=90)
        full = int(str(imagehash.phash(Image.open(path))), 16)
        distances.append(bits_between(hash_photo(path).perceptual, full))
    assert max(distances) <= 2


def test_plain_image_has_one_hash_on_every_machine() -> None:
    for level in (0, 7, 128, 255):
        hashes = hash_image(np.full((200, 300, 3), level, dtype=np.uint8))
        assert hashes.average == hashes.difference == hashes.wavelet == 0
        # Only the mean, the first frequency, is above the median of zero.
        assert hashes.perceptual == (1 << 63 if level else 0)


def test_hash_reads_as_the_string_of_imagehash() -> None:
    image = scene(150, 120, 1)
    assert f"{hash_image(image).perceptual:016x}" == str(imagehash.phash(Image.fromarray(image)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 5000)])
def test_extreme_shapes_have_hashes(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    hashes, mirrored = hash_with_mirror(image)
    assert 0 <= hashes.perceptual < 1 << 64
    assert 0 <= mirrored.wavelet < 1 << 64


def test_gray_array_hashes_like_its_color_form() -> None:
    gray = scene(100, 90, 2)[:, :, 0]
    assert hash_image(gray) == hash_image(np.repeat(gray[:, :, None], 3, axis=2))


def test_hash_photo_takes_bytes_and_turns_sideways_photos(tmp_path: Path) -> None:
    image = scene(300, 200, 4)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(
        buffer, "JPEG", quality=95, exif=exif
    )
    upright = hash_image(image)
    assert bits_between(hash_photo(buffer.getvalue()).perceptual, upright.perceptual) <= 2


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared photos are not here")
def test_real_photos_hash_within_two_bits_of_imagehash_on_99_percent() -> None:
    files = sorted(SHARED.glob("hymenoptera/val/*/*.jpg"))[:120]
    distances = np.array(
        [
            bits_between(
                hash_image(decode_photo(path, min_side_pixels=128)).perceptual,
                int(str(imagehash.phash(ImageOps.exif_transpose(Image.open(path)))), 16),
            )
            for path in files
        ]
    )
    assert len(distances) > 100
    assert (distances <= 2).mean() >= 0.99
