from __future__ import annotations

import numpy as np

from finetune.demo_data.strangers import PICTURES, STRANGERS, draw_strangers


def test_each_kind_has_different_pictures() -> None:
    assert sorted(STRANGERS) == ["blank frames", "drawn birds", "noise", "text"]
    for kind in STRANGERS:
        pictures = draw_strangers(kind)
        assert len({picture.tobytes() for picture in pictures}) == PICTURES
        assert {(picture.shape, str(picture.dtype)) for picture in pictures} == {
            ((256, 256, 3), "uint8")
        }


def test_pictures_show_what_their_kind_says() -> None:
    for frame in draw_strangers("blank frames"):
        assert np.abs(frame - frame.mean(axis=(0, 1))).mean() < 6
    for page in draw_strangers("text"):
        # Mostly paper, and some ink of another brightness.
        gray = page.mean(axis=2)
        ink = np.abs(gray - np.median(gray)) > 60
        assert 0.02 < ink.mean() < 0.4
