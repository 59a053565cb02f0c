"""Which parts of a network train in which epoch, and how large its inputs are in it."""

from __future__ import annotations

import math


def opening_epochs(stages: int, epochs: int) -> tuple[int, ...]:
    """Returns the epoch, from 0, in which each stage of a backbone begins to train.

    The head trains from the first epoch. With ``S`` stages, the ``k``-th from the head opens in
    epoch ``ceil(k E / 2 S)`` of ``E``: the whole network trains in the second half (gradual
    unfreezing, Howard and Ruder 2018, arXiv 1801.06146, spread over the epochs that there are).

    Args:
        stages: Of the backbone.
        epochs: Of the training.

    Returns:
        One epoch a stage, from the input to the head.

    Example:
        >>> opening_epochs(5, 12)
        (6, 5, 4, 3, 2)
    """
    return tuple(
        min(math.ceil(k * epochs / (2 * stages)), epochs - 1) for k in range(stages, 0, -1)
    )


def size_at(epoch: int, *, epochs: int, start: int, full: int) -> int:
    """Returns the side of the inputs in an epoch of a training with growing photos, in pixels.

    It grows in equal steps from `start` and is `full` in the last quarter of the epochs
    (progressive learning, Tan and Le 2021, arXiv 2104.00298). In between it is a multiple of 32
    where `full` is, else of 8: what the strides of the network make of it is then a whole number.

    Args:
        epoch: From 0.
        epochs: Of the training.
        start: Side in the first epoch.
        full: Side in the last ones.

    Example:
        >>> [size_at(epoch, epochs=8, start=128, full=224) for epoch in range(8)]
        [128, 128, 160, 160, 192, 192, 224, 224]
    """
    grows = max(1, math.floor(0.75 * epochs))
    if epoch >= grows or epoch >= epochs - 1:
        return full
    if epoch == 0:
        return start
    step = 32 if full % 32 == 0 else 8
    side = start + (full - start) * epoch / grows
    return max(start, math.floor(side / step) * step)
