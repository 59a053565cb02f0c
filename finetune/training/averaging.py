"""Averages of weights: moving average (EMA), greedy soup, interpolation with the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from finetune.errors import RunError
from finetune.formatting import percent
from finetune.models.checksum import load_checked

WARMUP_POWER = 2 / 3


def decay_at(update: int, decay: float) -> float:
    """Returns the decay of one update.

    ``min(decay, 1 - (1 + t)^(-2/3))`` for update ``t``, counted from 0 (the warm-up of timm's
    ``ModelEmaV3`` at its default power), so that short trainings do not average their start.
    """
    return min(decay, 1.0 - math.pow(1 + update, -WARMUP_POWER))


class WeightAverage:
    """Moving average of all floating-point tensors of a network.

    ``a <- d a + (1 - d) w`` after each step (Polyak and Juditsky 1992; d as in `decay_at`). Running
    statistics of batch norms are averaged too; counters are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, update: int) -> None:
        """Updates the average after a step."""
        now = module.state_dict()
        names = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in names],
            [now[name] for name in names],
            1 - decay_at(update, self.decay),
        )
        for name, value in now.items():
            if not value.is_floating_point():
                self.tensors[name].copy_(value)

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """Swaps the average into the module for the duration of the block."""
        tensors = list(module.state_dict(keep_vars=True).items())
        self._swap(tensors)
        try:
            yield
        finally:
            # In reverse, since a tensor may have two names.
            self._swap(tensors[::-1])

    def _swap(self, tensors: list[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            tensor.data, self.tensors[name] = self.tensors[name], tensor.data

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors of a checkpoint, bit by bit.

        Raises:
            KeyError: A tensor is missing.
        """
        for name, value in self.tensors.items():
            value.copy_(tensors[name])


class Candidate(NamedTuple):
    """Epoch whose weights are saved, with its validation scores (loss in nats).

    Attributes:
        epoch: From 1.
    """

    epoch: int
    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Soup:
    """Weights of several epochs, averaged.

    Attributes:
        epochs: Averaged epochs, best first.
        tensors: On the CPU.
    """

    epochs: tuple[int, ...]
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]


Rank = Callable[[Candidate], tuple[float, float]]
"""Ranking key of a candidate; higher is better."""


def best_first(candidates: Sequence[Candidate], rank: Rank) -> list[Candidate]:
    """Returns candidates by falling rank, earlier epochs first among equals."""
    by_age = sorted(candidates, key=lambda one: one.epoch)
    return sorted(by_age, key=rank, reverse=True)


def candidate_file(best: Path, epoch: int) -> Path:
    """Returns the weights file of a candidate, beside the best epoch's file."""
    return best.with_name(f"epoch-{epoch}.safetensors")


def remove_other_candidates(best: Path, candidates: Sequence[Candidate]) -> None:
    """Deletes the weights files of epochs that are no longer candidates."""
    kept = {candidate_file(best, one.epoch) for one in candidates}
    for file in best.parent.glob("epoch-*.safetensors"):
        if file not in kept:
            file.unlink(missing_ok=True)


def greedy_soup(
    ranked: Sequence[Candidate],
    read: Callable[[int], dict[str, Tensor]],
    evaluate: Callable[[dict[str, Tensor]], tuple[float, float]],
    rank: Rank,
) -> Soup:
    """Returns the average of the best epoch and of each further one that does not hurt it.

    The greedy soup of Wortsman et al. 2022 (arXiv 2203.05482, algorithm 1): in the order of their
    rank, an epoch stays in if the mean with it ranks at least as high on validation as the mean
    without it. Running statistics of batch norms are averaged like weights.

    Args:
        ranked: Candidates, best first.
        read: Returns the weights of an epoch.
        evaluate: Returns validation loss and accuracy of weights.
        rank: Ranking key.
    """
    first = read(ranked[0].epoch)
    total = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    best = ranked[0]
    soup = Soup(epochs=(best.epoch,), accuracy=best.accuracy, loss=best.loss, tensors=first)
    for candidate in ranked[1:]:
        tensors = read(candidate.epoch)
        trial_total = {name: value + tensors[name] for name, value in total.items()}
        count = len(soup.epochs) + 1
        # Counters are those of the best epoch.
        trial = first | {
            name: (value / count).to(first[name].dtype) for name, value in trial_total.items()
        }
        loss, accuracy = evaluate(trial)
        epochs = (*soup.epochs, candidate.epoch)
        so_far = Candidate(candidate.epoch, soup.accuracy, soup.loss)
        if rank(Candidate(candidate.epoch, accuracy, loss)) >= rank(so_far):
            soup = Soup(epochs=epochs, accuracy=accuracy, loss=loss, tensors=trial)
            total = trial_total
    return soup


def read_candidate(best: Path, epoch: int) -> dict[str, Tensor]:
    """Returns the weights of a candidate, on the CPU; raises RunError if they are damaged."""
    file = candidate_file(best, epoch)
    try:
        return load_checked(file)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged: {error}.") from error


Floats = NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Interpolation factors to try; each costs a pass over the validation photos."""

MIN_GAIN = 0.001
"""Smallest gain in log loss that counts."""


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """Validation losses of weights interpolated between start and end of a training.

    Attributes:
        losses: ``(N,)`` losses of the validation photos by factor; 0 is the start, 1 the end.
    """

    losses: Mapping[float, Floats]

    @property
    def share(self) -> float:
        """Factor of lowest mean loss, or 0 if it is not clearly better than the start.

        It must gain more than one standard error of the paired difference, and `MIN_GAIN`.
        """
        best = min(self.losses, key=lambda share: (self.loss(share), -share))
        gains = self.losses[0.0] - self.losses[best]
        error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        return best if gains.mean() > error and gains.mean() >= MIN_GAIN else 0.0

    def loss(self, share: float) -> float:
        """Returns the mean loss at a factor."""
        return float(self.losses[share].mean())

    def describe(self) -> str:
        """Returns a sentence on the choice of weights and its reason."""
        start, end = (f"{self.loss(share):.3f}" for share in (0.0, 1.0))
        if self.share == 1:
            return (
                f"The trained network is kept: log loss {end} on validation, {start} at its start."
            )
        if self.share == 0:
            best = min(self.loss(share) for share in self.losses)
            where = f"on the way to the trained network ({end})"
            if self.loss(0.0) - best < MIN_GAIN:
                found = f"no loss lower by {MIN_GAIN} {where}"
            else:
                found = f"{best:.3f} at best {where}, which may be due to chance"
            return (
                "The initial network is kept, with the head trained on the frozen "
                f"backbone: log loss {start} on validation, and {found}."
            )
        return (
            f"The network is interpolated at {percent(self.share, 0)} from start to end: log loss "
            f"{self.loss(self.share):.3f} on validation, {start} at the start, {end} at the end."
        )


def interpolate_weights(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    evaluate: Callable[[dict[str, Tensor]], Floats],
    shares: Sequence[float] = SHARES,
) -> Interpolation:
    """Returns the losses of weights interpolated between two ends.

    A network on the line ``(1 - a) start + a end`` is often better than both ends (Wortsman
    et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903, section 3), and where
    training made the network worse, the start is one of the choices.

    Args:
        start: Tensors before training.
        end: Tensors after it, of the same names.
        evaluate: Returns the loss of each validation photo, ``(N,)``.
        shares: Factors ``a`` to try, in [0, 1]; must include 0.
    """
    return Interpolation(
        losses={share: evaluate(interpolate(start, end, share)) for share in shares}
    )


def interpolate(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Returns ``start + share (end - start)``; counters are those of the end.

    A share of 0 or 1 gives that end exactly.
    """
    if share == 1:
        return dict(end)
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
