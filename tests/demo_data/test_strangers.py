from __future__ import annotations

import numpy as np

from finetune.demo_data.strangers import PICTURES, stranger_pictures


def test_each_kind_has_different_pictures() -> None:
    found = stranger_pictures()
    assert sorted(found) == ["blank frames", "drawn birds", "noise", "text"]
    for pictures in found.values():
        assert len({picture.tobytes() for picture in pictures}) == PICTURES
        assert {(picture.shape, str(picture.dtype)) for picture in pictures} == {
            ((256, 256, 3), "uint8")
        }


def test_pictures_show_what_their_kind_says() -> None:
    found = stranger_pictures()
    for frame in found["blank frames"]:
        assert np.abs(frame - frame.mean(axis=(0, 1))).mean() < 6
    for page in found["text"]:
        # Mostly paper, and some ink of another brightness.
        gray = page.mean(axis=2)
        ink = np.abs(gray - np.median(gray)) > 60
        assert 0.02 < ink.mean() < 0.4
