"""Formats other than JPEG and PNG are decoded by a process that may crash."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import DecodeError
from finetune.photos.decode import isolated, pool
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.decode.isolated import decode_isolated
from finetune.photos.decode.pool import usable_cores


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    workers = isolated._Workers()
    monkeypatch.setattr(isolated, "_workers", workers)
    yield
    workers.end()


def content(pixels: NDArray[np.uint8], form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, lossless=True)
    return buffer.getvalue()


def worker_that(action: str) -> list[str]:
    code = f"""
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from finetune.photos.decode import isolated, pool
original = isolated.decode_photo
def decode_photo(source, **options):
    {action}
    return original(source, **options)
isolated.decode_photo = decode_photo
isolated.main()
"""
    return [sys.executable, "-c", code, json.dumps(sys.path)]


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_pixels_are_those_of_the_decoder(
    pixels: NDArray[np.uint8], tmp_path: Path, form: str
) -> None:
    photo = content(pixels, form)
    path = tmp_path / os.fsdecode(b"\xe9\n.photo")
    path.write_bytes(photo)
    for source in (photo, path, photo):
        found = decode_isolated(source)
        assert np.array_equal(found, decode_photo(source))
        assert found.flags.writeable
    if form != "GIF":  # 256 colors
        assert np.array_equal(found, pixels)


def test_jpeg_and_png_need_no_process(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "worker_command", lambda module: ["/no/such/python"])
    assert np.array_equal(decode_isolated(content(pixels, "PNG")), pixels)


def test_where_no_process_starts_this_one_decodes(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "worker_command", lambda module: ["/no/such/python"])
    assert np.array_equal(decode_isolated(content(pixels, "WEBP")), pixels)


@pytest.mark.parametrize(
    "source", [b"", b"no photo", Path("missing.webp")], ids=["empty", "text", "missing"]
)
def test_reasons_are_those_of_the_decoder(source: Path | bytes) -> None:
    with pytest.raises(DecodeError) as expected:
        decode_photo(source)
    with pytest.raises(DecodeError) as found:
        decode_isolated(source)
    assert str(found.value) == str(expected.value)


def test_bound_on_pixels_holds(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(DecodeError, match="pixels"):
        decode_isolated(content(pixels, "WEBP"), max_pixels=100)


@pytest.mark.parametrize("action", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(0)"])
def test_crash_costs_one_photo(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    good, bad = tmp_path / "good.webp", tmp_path / "bad.webp"
    for path in (good, bad):
        path.write_bytes(content(pixels, "WEBP"))
    command = worker_that(f"str(source).endswith('bad.webp') and {action}")
    monkeypatch.setattr(isolated, "worker_command", lambda module: command)
    assert np.array_equal(decode_isolated(good), pixels)
    with pytest.raises(DecodeError, match=r"bad.webp: crashed the decoder"):
        decode_isolated(bad)
    assert np.array_equal(decode_isolated(good), pixels)


def test_photo_that_takes_too_long_is_given_up(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PHOTO_SECONDS", 0.5)
    monkeypatch.setattr(pool, "BUSY_FACTOR", 1)
    monkeypatch.setattr(isolated, "worker_command", lambda module: worker_that("time.sleep(99)"))
    with pytest.raises(DecodeError, match=r"took over 0\.5 s"):
        decode_isolated(content(pixels, "WEBP"))


def test_what_a_decoder_prints_does_not_mix_with_pixels(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = worker_that("os.write(1, b'hello'), print('world', flush=True)")
    monkeypatch.setattr(isolated, "worker_command", lambda module: command)
    assert np.array_equal(decode_isolated(content(pixels, "WEBP")), pixels)


def test_threads_share_the_processes(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[isolated._Worker] = []

    class Counted(isolated._Worker):
        def __init__(self, turns: Path) -> None:
            super().__init__(turns)
            started.append(self)

    monkeypatch.setattr(isolated, "_Worker", Counted)
    photos = [np.roll(pixels, turn, 0) for turn in range(12)]
    found: dict[int, NDArray[np.uint8]] = {}

    def decode(number: int) -> None:
        found[number] = decode_isolated(content(photos[number], "WEBP"))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], photos[number]) for number in range(12))
    assert 1 <= len(started) <= usable_cores()
