"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config import ScheduleName

ONE_CYCLE_START = 25.0
"""One-cycle starts at the peak rate divided by this."""

ONE_CYCLE_END = 1e4
"""One-cycle ends at its first rate divided by this."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate schedule: head-only steps, warm-up, decay.

    With ``w`` warm-up steps and ``T`` steps in all, step ``t`` (counted from 0) has the factor

    * ``cosine``: ``(t + 1) / w`` while ``t < w``, then ``(1 + cos(pi (t - w) / (T - w))) / 2``
      (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts);
    * ``constant``: ``(t + 1) / w`` while ``t < w``, then 1;
    * ``one_cycle``: from 1/25 to 1 at step ``w - 1``, then down to 1/250,000 at step ``T - 1``,
      both along half a cosine (Smith and Topin 2019, arXiv 1708.07120, in the two-phase form of
      ``torch.optim.lr_scheduler.OneCycleLR``; momentum stays as it is).

    Attributes:
        steps: All steps, including `head_steps`.
        warmup: Share of the steps after `head_steps` in which the rate rises.
        head_steps: First steps, in which only the head trains, at its full rate.
    """

    steps: int
    warmup: float
    head_steps: int = 0
    shape: ScheduleName = "cosine"

    def head(self, step: int) -> float:
        """Returns the factor in [0, 1] on the head's learning rate at a step."""
        return 1.0 if step < self.head_steps else self._cycle(step)

    def backbone(self, step: int, opens: int = 0) -> float:
        """Returns the factor in [0, 1] on the learning rate of a part of the backbone at a step.

        Args:
            step: Counted from 0.
            opens: The part's first step. A part that opens late has its own warm-up in addition,
                since its optimizer moments start from zero.
        """
        if step < max(opens, self.head_steps):
            return 0.0
        factor = self._cycle(step)
        if opens > self.head_steps:
            factor *= min(1.0, (step - opens + 1) / max(1, self.rising))
        return factor

    @property
    def rising(self) -> int:
        """Steps of the warm-up."""
        return round(self.warmup * (self.steps - self.head_steps))

    def _cycle(self, step: int) -> float:
        total = self.steps - self.head_steps
        done = step - self.head_steps
        if self.shape == "one_cycle":
            return _one_cycle(done, total, self.warmup)
        rising = self.rising
        if done < rising:
            return (done + 1) / rising
        if self.shape == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, total - rising)))


def _one_cycle(step: int, total: int, warmup: float) -> float:
    top, last = warmup * total - 1, total - 1
    low = 1 / ONE_CYCLE_START
    if step < top:
        return _between(low, 1.0, step / top)
    # Without a rise the first step is at the top.
    begin = max(top, 0.0)
    return _between(1.0, low / ONE_CYCLE_END, (step - begin) / max(last - begin, 1.0))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
