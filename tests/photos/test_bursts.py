from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finetune.photos.bursts import burst_groups, share_of_followers
from finetune.photos.collection import Photo, pack_hashes
from finetune.photos.near_duplicates.hashing import hash_with_mirror


def frame(number: int, taken_at: str | None, *, look: int = 0, camera: str | None = "K") -> Photo:
    """A frame that looks like the others of its look, with a pixel of its own."""
    image = np.random.default_rng(look).integers(0, 255, (64, 64, 3), np.uint8)
    image = np.kron(image[::8, ::8], np.ones((16, 16, 1), np.uint8))
    image[number % 8, 0] = number
    return Photo(
        path=f"{number}.jpg",
        digest=f"{number:032x}",
        width=128,
        height=128,
        taken_at=taken_at,
        camera=camera,
        packed_hashes=pack_hashes(*hash_with_mirror(image)),
    )


def test_frames_that_look_alike_are_a_burst() -> None:
    photos = [
        frame(0, "2024-05-01T12:00:00"),
        frame(1, "2024-05-01T12:00:01", look=1),
        frame(2, "2024-05-01T12:00:01"),
        frame(3, None),
    ]
    assert burst_groups(photos) == [0, 1, 0, 0]


def test_a_pause_divides_what_a_still_camera_saw() -> None:
    times = ["12:00:00", "12:00:20", "12:00:50", "12:01:21", "18:00:00"]
    photos = [frame(number, f"2024-05-01T{time}") for number, time in enumerate(times)]
    assert burst_groups(photos) == [0, 0, 0, 1, 2]
    shuffled = [photos[k] for k in (4, 2, 0, 3, 1)]
    assert burst_groups(shuffled) == [0, 1, 1, 2, 1]
    timeless = [dataclasses.replace(photo, taken_at=None) for photo in photos]
    assert burst_groups(timeless) == [0] * 5


def test_followers_are_of_one_camera_and_two_seconds() -> None:
    times = [
        ("2024-05-01T12:00:00", "K"),
        ("2024-05-01T12:00:02", "K"),
        ("2024-05-01T12:00:05", "K"),
        ("2024-05-01T12:00:05.5", "L"),
        (None, "L"),
    ]
    assert share_of_followers(times) == pytest.approx(1 / 5)
    assert share_of_followers([]) == 0
