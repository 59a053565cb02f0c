"""Heads on cached features, fitted for each L2 strength; held-out photos pick one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.balance import strata
from finetune.errors import ConfigError
from finetune.models.linear_solver import LinearHead, LinearSolver, Solution
from finetune.tasks.base import Objective
from finetune.training.linear_probe.features import FitInterruptedError, ProbePhotos
from finetune.training.prepared import Prepared
from finetune.training.validation import Outputs, calibrated_loss, plain_loss

L2_STRENGTHS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""L2 strengths to try. Logistic regression's C is 1 / (strength * photos)."""

SEARCH_TOLERANCE = 1e-4
"""Gradient at which the heads of the search stop; see `LinearSolver.solve`."""

Progress = Callable[[int, int], None]


class HeadFitter:
    """Fits heads on some of the photos and predicts others.

    Args:
        photos: The photos.
        labels: Number of labels.
        objective: Loss to minimize.
        device: Where to compute.
        start: Head of a parent run that the L2 penalty pulls towards, instead of zero (Li et al.
            2018, "Explicit Inductive Bias for Transfer Learning", arXiv 1802.01483).
        balanced: Repeat the photos of each label until all labels have as many.
    """

    def __init__(
        self,
        photos: ProbePhotos,
        *,
        labels: int,
        objective: Objective,
        device: torch.device,
        start: LinearHead | None = None,
        balanced: bool = False,
    ) -> None:
        self.photos = photos
        self.labels = labels
        self.objective = objective
        self._balanced = balanced
        # The solver needs float64, which MPS lacks.
        self._device = torch.device("cpu") if device.type == "mps" else device
        if start is not None:
            start = LinearHead(start.weight.to(self._device), start.bias.to(self._device))
        every = [key for view in photos.views for key in view]
        targets = np.concatenate([photos.targets] * len(photos.views))
        self._probe = LinearSolver(
            photos.features.read(every).to(self._device),
            torch.from_numpy(targets).to(self._device),
            outputs=labels,
            loss=objective.loss,
            start=start,
        )

    def fit(
        self,
        learned: NDArray[np.int64],
        strength: float,
        *,
        start: Solution | None = None,
        tolerance: float = 1e-5,
    ) -> Solution:
        """Returns the head that is fitted on all views of some photos.

        Args:
            learned: ``(K,)``, indices of the photos.
            strength: L2 strength.
            start: Solution to start from, for speed.
            tolerance: As for `LinearSolver.solve`.
        """
        if self._balanced:
            by_label = strata(self.photos.targets[learned], self.labels)
            most = max(map(len, by_label))
            learned = learned[np.concatenate([np.resize(found, most) for found in by_label])]
        count = len(self.photos.targets)
        rows = np.concatenate([view * count + learned for view in range(len(self.photos.views))])
        return self._probe.solve(
            strength,
            rows=torch.from_numpy(rows).to(self._device),
            start=start,
            tolerance=tolerance,
        )

    def logits(self, solution: Solution, photos: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the logits ``(K, C)`` of some photos."""
        rows = torch.from_numpy(photos).to(self._device)
        found: NDArray[np.float32] = self._probe.logits(solution, rows).cpu().numpy()
        return found

    def head(self, solution: Solution) -> LinearHead:
        """Returns a solution as a linear layer on features, on the CPU."""
        head = self._probe.head(solution)
        return LinearHead(head.weight.cpu(), head.bias.cpu())


def head_fitter(
    prepared: Prepared,
    photos: ProbePhotos,
    device: torch.device,
    *,
    start: LinearHead | None = None,
) -> HeadFitter:
    """Returns the fitter of a training's heads."""
    return HeadFitter(
        photos,
        labels=len(prepared.data_split.labels),
        objective=prepared.objective(),
        device=device,
        start=start,
        balanced=prepared.config.labels.balance == "sampling",
    )


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """Head with the L2 strength that held-out photos picked.

    Attributes:
        strengths: L2 strengths it was picked from, weakest first.
        learned: ``(L,)``, indices of the photos it was fitted on.
        held_out: Logits of the held-out photos by heads that were not fitted on them.
        loss: Their mean log loss in nats, uncalibrated.
    """

    solution: Solution
    strength: float
    strengths: tuple[float, ...]
    learned: NDArray[np.int64]
    held_out: Outputs
    loss: float

    def describe(self, part: str) -> str:
        """Returns a sentence on the choice; `part` names the held-out photos."""
        tried = ", ".join(f"{strength:g}" for strength in self.strengths)
        return (
            f"L2 strength {self.strength:g} of {tried}: the lowest calibrated log loss on {part}."
        )


def fit_head(
    fitter: HeadFitter,
    strengths: Sequence[float],
    *,
    progress: Progress = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> FittedHead:
    """Returns the head of the L2 strength with the lowest calibrated loss on held-out photos.

    For each fold, heads are fitted on the other photos. Probabilities are calibrated later, so the
    strengths are compared by calibrated loss; of equal ones the strongest wins. The final head is
    fitted on all photos but those that are held out of every training (a validation part).

    Args:
        fitter: Fits on the photos, whose folds say which are held out together.
        strengths: L2 strengths.
        progress: Called as ``progress(done, total)``.
        stop: Returns whether to stop.

    Raises:
        FitInterruptedError: `stop` returned True.
    """
    folds, targets = fitter.photos.folds, fitter.photos.targets
    held = np.flatnonzero(folds >= 0)
    numbers = np.unique(folds[held])
    # From strong to weak, each starts from the one before: strong ones need few passes.
    order = sorted(strengths, reverse=True)
    logits = np.zeros((len(order), len(held), fitter.labels), np.float32)
    found: list[Solution | None] = [None] * len(order)
    for place, fold in enumerate(numbers):
        learned, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        stronger = None
        for k, strength in enumerate(order):
            if stop():
                raise FitInterruptedError
            stronger = fitter.fit(
                learned, strength, start=found[k] or stronger, tolerance=SEARCH_TOLERANCE
            )
            found[k] = stronger
            logits[k, np.searchsorted(held, asked)] = fitter.logits(stronger, asked)
            progress(place * len(order) + k + 1, len(numbers) * len(order) + 1)
    outputs = [Outputs(of_strength, targets[held]) for of_strength in logits]
    losses = [calibrated_loss(one, fitter.objective) for one in outputs]
    best = int(np.argmin(losses))
    # A validation part is a single fold, and stays held out.
    final = np.arange(len(targets)) if len(numbers) > 1 else np.flatnonzero(folds < 0)
    solution = fitter.fit(final, order[best], start=found[best])
    progress(len(numbers) * len(order) + 1, len(numbers) * len(order) + 1)
    return FittedHead(
        solution=solution,
        strength=order[best],
        strengths=tuple(reversed(order)),
        learned=final,
        held_out=outputs[best],
        loss=plain_loss(outputs[best], fitter.objective),
    )


def strengths_of(text: str | None) -> tuple[float, ...]:
    """Returns the L2 strengths in a setting such as ``0.01,0.1``, weakest first.

    Raises:
        ConfigError: One is no number, or is negative.

    Example:
        >>> strengths_of("0.1, 0.01")
        (0.01, 0.1)
    """
    if text is None:
        return L2_STRENGTHS
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 <= strength < float("inf") for strength in found):
        raise ConfigError(
            f"--head-l2 {text} must be numbers from 0 on with commas between them, such as "
            "0.01,0.1,1."
        )
    return tuple(found)
