from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import ConfigError
from finetune.prediction.inputs import check_tta, tta_views
from finetune.prediction.onnx_engine import center_of


def test_ten_views_are_center_and_corners_with_their_mirror_images() -> None:
    squares = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    seen = [center_of(view, 6) for view in tta_views(squares, 6, 10)]
    assert len(seen) == 10
    places = [(1, 1), (0, 0), (0, 3), (3, 0), (3, 3)]
    for number, (top, left) in enumerate(places):
        crop = squares[:, top : top + 6, left : left + 6]
        np.testing.assert_array_equal(seen[2 * number], crop)
        if number:
            np.testing.assert_array_equal(seen[2 * number + 1], crop[:, :, ::-1])
    np.testing.assert_array_equal(seen[1], center_of(squares[:, :, ::-1], 6))


def test_other_numbers_of_views_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--tta 3 is not one of 1, 2, 10\.$"):
        check_tta(3)
