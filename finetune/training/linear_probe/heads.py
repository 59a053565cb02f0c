"""Logistic regressions and linear discriminants on cached features; held-out photos pick one.

Logistic regressions of six L2 strengths suit photos like those that the backbone was trained on.
Where photos are unlike these, a linear discriminant analysis is often far better, and there it has
the lower loss on held-out photos (`benchmarks/probe.py few`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from finetune.training.validation import Outputs, calibrated_loss, calibrated_losses, plain_loss

L2_STRENGTHS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0)
"""L2 strengths to try. Logistic regression's C is 1 / (strength * photos)."""

SEARCH_TOLERANCE = 1e-4
"""Gradient at which the heads of the search stop; see `LinearSolver.solve`."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shrinkage:
    """Shrinkage of a linear discriminant's covariance, tried beside the L2 strengths.

    Attributes:
        value: In (0, 1].
        sharpness: Factor on its logits, which are far too sure where photos are few.
    """

    value: float
    sharpness: float = 1.0


Strength = float | Shrinkage
"""L2 strength of a logistic regression, or the shrinkage of a linear discriminant."""

SHRINKAGES = (Shrinkage(0.3), Shrinkage(0.6))

SHARPNESS = tuple(2.0 ** (half / 2) for half in range(-16, 1))
"""Factors on the logits of a discriminant.

Not above 1: where all held-out photos are right, any loss could be scaled to zero.
"""


def strength_name(strength: Strength) -> str:
    """Returns a strength in words.

    Example:
        >>> strength_name(0.1), strength_name(Shrinkage(0.3))
        ('L2 strength 0.1', 'linear discriminant, shrinkage 0.3')
    """
    if isinstance(strength, Shrinkage):
        return f"linear discriminant, shrinkage {strength.value:g}"
    return f"L2 strength {strength:g}"


def sharpened(solution: Solution, factor: float) -> Solution:
    """Returns a head whose logits are multiplied by a factor."""
    return dataclasses.replace(
        solution, weight=solution.weight * factor, bias=solution.bias * factor
    )


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

    @property
    def has_discriminant(self) -> bool:
        """Whether linear discriminants are possible: one label a photo, and no parent's head."""
        return self.photos.targets.ndim == 1 and self._probe.start is None

    def fit(
        self,
        learned: NDArray[np.int64],
        strength: Strength,
        *,
        start: Solution | None = None,
        tolerance: float = 1e-5,
    ) -> Solution:
        """Returns the head that is fitted on all views of some photos.

        Args:
            learned: ``(K,)``, indices of the photos.
            strength: L2 strength or shrinkage.
            start: Solution to start from, for speed.
            tolerance: As for `LinearSolver.solve`.
        """
        if self._balanced:
            by_label = strata(self.photos.targets[learned], self.labels)
            most = max(map(len, by_label))
            learned = learned[np.concatenate([np.resize(found, most) for found in by_label])]
        count = len(self.photos.targets)
        rows = np.concatenate([view * count + learned for view in range(len(self.photos.views))])
        on_device = torch.from_numpy(rows).to(self._device)
        if isinstance(strength, Shrinkage):
            found = self._probe.discriminant(strength.value, rows=on_device)
            return sharpened(found, strength.sharpness)
        return self._probe.solve(
            strength,
            rows=on_device,
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
    """Head with the strength that held-out photos picked.

    Attributes:
        strengths: Strengths it was picked from, weakest first.
        learned: ``(L,)``, indices of the photos it was fitted on.
        held_out: Logits of the held-out photos by heads that were not fitted on them.
        loss: Their mean log loss in nats, uncalibrated.
        of_folds: Heads of the same strength by the fold that they were not fitted on.
    """

    solution: Solution
    strength: Strength
    strengths: tuple[Strength, ...]
    learned: NDArray[np.int64]
    held_out: Outputs
    loss: float
    of_folds: Mapping[int, Solution]

    def describe(self, part: str) -> str:
        """Returns the choice in words; `part` names the held-out photos."""
        lowest = f"the lowest log loss on {part}: {self.loss:.3f}"
        weights = [strength for strength in self.strengths if isinstance(strength, float)]
        if isinstance(self.strength, Shrinkage):
            return f"{strength_name(self.strength)} ({lowest}, beside logistic regressions)"
        if len(weights) == 1:
            return f"L2 strength {self.strength:g}, log loss {self.loss:.3f} on {part}"
        return f"L2 strength {self.strength:g} (of {weights[0]:g} to {weights[-1]:g}, {lowest})"


def fit_head(
    fitter: HeadFitter,
    strengths: Sequence[Strength],
    *,
    progress: Progress = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> FittedHead:
    """Returns the head of the strength with the lowest calibrated loss on held-out photos.

    For each fold, heads are fitted on the other photos. Probabilities are calibrated later, so the
    strengths are compared by calibrated loss; of equal ones the strongest wins. The final head is
    fitted on all photos but those that are held out of every training (a validation part).

    Args:
        fitter: Fits on the photos, whose folds say which are held out together.
        strengths: L2 strengths and shrinkages; the latter are left out where the fitter has none.
        progress: Called as ``progress(done, total)``.
        stop: Returns whether to stop.

    Raises:
        FitInterruptedError: `stop` returned True.
    """
    folds, targets = fitter.photos.folds, fitter.photos.targets
    held = np.flatnonzero(folds >= 0)
    numbers = np.unique(folds[held])
    # From strong to weak, each starts from the one before: strong ones need few passes.
    weights = [strength for strength in strengths if isinstance(strength, float)]
    order: list[Strength] = [*sorted(weights, reverse=True)]
    if fitter.has_discriminant:
        order += [strength for strength in strengths if isinstance(strength, Shrinkage)]
    logits = np.zeros((len(order), len(held), fitter.labels), np.float32)
    found: list[dict[int, Solution]] = [{} for _ in order]
    for place, fold in enumerate(numbers):
        learned, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        stronger = None
        for k, strength in enumerate(order):
            if stop():
                raise FitInterruptedError
            # Never from the head of another fold, which was fitted on the photos held out here:
            # where it fits these already, the solver would stop at once.
            stronger = fitter.fit(learned, strength, start=stronger, tolerance=SEARCH_TOLERANCE)
            found[k][int(fold)] = stronger
            logits[k, np.searchsorted(held, asked)] = fitter.logits(stronger, asked)
            progress(place * len(order) + k + 1, len(numbers) * len(order) + 1)
    for k, strength in enumerate(order):
        if isinstance(strength, Shrinkage):
            sharpness = _sharpness(Outputs(logits[k], targets[held]), fitter.objective)
            order[k] = dataclasses.replace(strength, sharpness=sharpness)
            logits[k] *= sharpness
            found[k] = {fold: sharpened(head, sharpness) for fold, head in found[k].items()}
    outputs = [Outputs(of_strength, targets[held]) for of_strength in logits]
    losses = [calibrated_loss(one, fitter.objective) for one in outputs]
    best = _pick(outputs, order, losses, fitter.objective)
    # A validation part is a single fold, and stays held out.
    final = np.arange(len(targets)) if len(numbers) > 1 else np.flatnonzero(folds < 0)
    solution = fitter.fit(final, order[best], start=found[best][int(numbers[-1])])
    progress(len(numbers) * len(order) + 1, len(numbers) * len(order) + 1)
    return FittedHead(
        solution=solution,
        strength=order[best],
        strengths=tuple(reversed(order)),
        learned=final,
        held_out=outputs[best],
        loss=plain_loss(outputs[best], fitter.objective),
        of_folds=found[best],
    )


def _pick(
    outputs: Sequence[Outputs],
    strengths: Sequence[Strength],
    losses: Sequence[float],
    objective: Objective,
) -> int:
    """Returns the index of the strength with the lowest loss.

    A discriminant must be better than the best regression by more than one standard error.
    """
    regressions = sum(isinstance(strength, float) for strength in strengths)
    best = int(np.argmin(losses[:regressions]))
    if regressions < len(strengths):
        other = regressions + int(np.argmin(losses[regressions:]))
        gains = calibrated_losses(outputs[best], objective)
        gains -= calibrated_losses(outputs[other], objective)
        if gains.mean() > gains.std() / np.sqrt(len(gains)):
            return other
    return best


def _sharpness(outputs: Outputs, objective: Objective) -> float:
    """Returns the factor on the logits with the lowest loss."""
    losses = [
        plain_loss(Outputs(outputs.logits * np.float32(factor), outputs.targets), objective)
        for factor in SHARPNESS
    ]
    factor: float = SHARPNESS[int(np.argmin(losses))]
    return factor


def strengths_of(text: str | None) -> tuple[Strength, ...]:
    """Returns the L2 strengths in a setting such as ``0.01,0.1``, weakest first; None: the default.

    Raises:
        ConfigError: One is no number, or is negative.

    Example:
        >>> strengths_of("0.1, 0.01")
        (0.01, 0.1)
    """
    if text is None:
        return (*L2_STRENGTHS, *SHRINKAGES)
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
