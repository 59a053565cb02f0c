"""Weights on the line between those that a fine-tuning started from and those it came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the way that are tried; each costs a look at the validation photos."""

LEAST_GAIN = 0.001
"""Of log loss: where every photo is right already, being surer still is no reason to move."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """The places that were tried between two ends, and what they were worth.

    Attributes:
        losses: ``(N,)`` of the validation photos by share of the way; 0 is the start, 1 the end.
    """

    losses: Mapping[float, Floats]

    @property
    def share(self) -> float:
        """The share that is kept: that of the lowest mean loss, if it is better than the start.

        Better by more than one standard error of the difference from photo to photo, and by
        `LEAST_GAIN` at least: the start has learned nothing but a head by heart, and what a few
        photos say against it may be chance.
        """
        best = min(self.losses, key=lambda share: (self.loss(share), -share))
        gains = self.losses[0.0] - self.losses[best]
        error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        return best if gains.mean() > error and gains.mean() >= LEAST_GAIN else 0.0

    def loss(self, share: float) -> float:
        """Returns the mean loss at a share of the way."""
        return float(self.losses[share].mean())

    def in_words(self) -> str:
        """Returns what is kept, and why."""
        start, end = (f"{self.loss(share):.3f}" for share in (0.0, 1.0))
        if self.share == 1:
            return (
                f"The network is kept as it was trained: log loss {end} on validation, {start} at "
                "its start."
            )
        if self.share == 0:
            best = min(self.loss(share) for share in self.losses)
            way = f"on the way to the trained network ({end})"
            if self.loss(0.0) - best < LEAST_GAIN:
                found = f"nowhere lower by {LEAST_GAIN} {way}"
            else:
                found = f"{best:.3f} at best {way}, which is no more than chance would give"
            return (
                "The network is kept as it started, with the head that learned on the frozen "
                f"backbone: log loss {start} on validation, and {found}."
            )
        return (
            f"The network is kept at {self.share:.0%} of the way from its start: log loss "
            f"{self.loss(self.share):.3f} on validation, {start} at the start, {end} at the end."
        )


def walk(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    judge: Callable[[dict[str, Tensor]], Floats],
    shares: Sequence[float] = SHARES,
) -> Way:
    """Returns what the weights between two ends are worth.

    Few photos pull a pretrained network away from what it knew further than they can show to be
    right. A network on the line ``(1 - a) start + a end`` is often better than both ends (Wortsman
    et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903, section 3), and where
    training only did harm, the start is one of the choices.

    Args:
        start: Tensors before training.
        end: Tensors after it, of the same names.
        judge: Tensors to the loss of each validation photo, ``(N,)``; lower is better.
        shares: Which ``a`` to try, in [0, 1]; 0 is one of them.
    """
    return Way(losses={share: judge(between(start, end, share)) for share in shares})


def between(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Returns ``start + share (end - start)``; counters are those of the end.

    Args:
        start: Tensors before training.
        end: Tensors after it.
        share: In [0, 1]; 0 and 1 give the ends to the last bit.
    """
    if share == 1:
        return dict(end)
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
