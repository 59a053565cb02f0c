"""Test-time augmentation: a photo is asked about in several views, and the answers averaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError

Views = Literal[1, 2, 10]
"""1: the photo. 2: it and its mirror image. 10: center and four corners, each with its mirror
image (Krizhevsky et al. 2012, section 4.1)."""


def check_views(views: int) -> Views:
    """Returns `views` if it is a number of views that there is.

    Raises:
        ConfigError: It is not.
    """
    for known in get_args(Views):
        if views == known:
            chosen: Views = known
            return chosen
    raise ConfigError(f"--tta {views} is none of 1, 2, 10.")


def views_of(squares: NDArray[np.uint8], size: int, views: Views) -> Iterator[NDArray[np.uint8]]:
    """Yields each view of working squares, as squares whose center the network is to see.

    Args:
        squares: ``(B, S, S, 3) uint8``.
        size: Side of the network's input; the corners are so large.
        views: How many.
    """
    yield squares
    if views == 1:
        return
    yield squares[:, :, ::-1]
    if views == 2:
        return
    last = squares.shape[1] - size
    for top in (0, last):
        for left in (0, last):
            corner = squares[:, top : top + size, left : left + size]
            yield corner
            yield corner[:, :, ::-1]
