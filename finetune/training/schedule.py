"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, then a cosine down to zero; before them, steps in which only the head trains.

    With ``w`` warm-up steps and ``T`` steps in all, step ``t`` (counted from 0) has the factor
    ``(t + 1) / w`` while ``t < w``, then ``(1 + cos(pi (t - w) / (T - w))) / 2``
    (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).

    Attributes:
        steps: Steps in all, the head's own ones counted in.
        warmup: Share of the steps, after the head's own, in which the rate rises.
        head_steps: Steps at the start in which only the head trains, at its full rate.
    """

    steps: int
    warmup: float
    head_steps: int = 0

    def head(self, step: int) -> float:
        """Returns the factor in [0, 1] on the head's learning rate at a step."""
        return 1.0 if step < self.head_steps else self._cycle(step)

    def backbone(self, step: int) -> float:
        """Returns the factor in [0, 1] on the backbone's learning rate at a step."""
        return 0.0 if step < self.head_steps else self._cycle(step)

    def _cycle(self, step: int) -> float:
        total = self.steps - self.head_steps
        rising = round(self.warmup * total)
        done = step - self.head_steps
        if done < rising:
            return (done + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, total - rising)))
