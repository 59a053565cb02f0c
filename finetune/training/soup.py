"""Averages the best epochs' weights as far as validation does not lose by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor


class Candidate(NamedTuple):
    """An epoch whose weights are kept.

    Attributes:
        epoch: From 1.
        accuracy: On validation.
        loss: On validation, in nats.
    """

    epoch: int
    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Soup:
    """Weights of several epochs, averaged.

    Attributes:
        epochs: Those that are in it, best first.
        accuracy: On validation.
        loss: On validation, in nats.
        tensors: The weights, on the CPU.
    """

    epochs: tuple[int, ...]
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]


Rank = Callable[[Candidate], tuple[float, float]]
"""What is higher for a better one."""


def best_first(candidates: Sequence[Candidate], rank: Rank) -> list[Candidate]:
    """Returns candidates by rank; the earlier of two equals is first."""
    by_age = sorted(candidates, key=lambda one: one.epoch)
    return sorted(by_age, key=rank, reverse=True)


def candidate_file(best: Path, epoch: int) -> Path:
    """Returns where the weights of a candidate lie, beside the best epoch's file."""
    return best.with_name(f"epoch-{epoch}.safetensors")


def forget_others(best: Path, candidates: Sequence[Candidate]) -> None:
    """Deletes the weights of epochs that are candidates no longer."""
    kept = {candidate_file(best, one.epoch) for one in candidates}
    for file in best.parent.glob("epoch-*.safetensors"):
        if file not in kept:
            file.unlink(missing_ok=True)


def greedy_soup(
    ranked: Sequence[Candidate],
    read: Callable[[int], dict[str, Tensor]],
    judge: Callable[[dict[str, Tensor]], tuple[float, float]],
    rank: Rank,
) -> Soup:
    """Returns the average of the best epoch and of each next one that does not make it worse.

    The greedy soup of Wortsman et al. 2022 (arXiv 2203.05482, algorithm 1): in the order of their
    own accuracy, an epoch stays in when the mean with it is at least as accurate on validation as
    the mean without; of two equals, which are many where photos are few, the one with the lower
    loss. Running statistics of batch norms are averaged like weights.

    Args:
        ranked: One or more, best first.
        read: An epoch's weights.
        judge: Loss and accuracy of weights on the validation photos.
        rank: By what they are compared, the second where the first is equal.
    """
    first = read(ranked[0].epoch)
    total = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    best = ranked[0]
    soup = Soup(epochs=(best.epoch,), accuracy=best.accuracy, loss=best.loss, tensors=first)
    for candidate in ranked[1:]:
        tensors = read(candidate.epoch)
        trial_total = {name: value + tensors[name] for name, value in total.items()}
        count = len(soup.epochs) + 1
        # Counters, which have no mean, stay those of the best epoch.
        trial = first | {
            name: (value / count).to(first[name].dtype) for name, value in trial_total.items()
        }
        loss, accuracy = judge(trial)
        epochs = (*soup.epochs, candidate.epoch)
        so_far = Candidate(candidate.epoch, soup.accuracy, soup.loss)
        if rank(Candidate(candidate.epoch, accuracy, loss)) >= rank(so_far):
            soup = Soup(epochs=epochs, accuracy=accuracy, loss=loss, tensors=trial)
            total = trial_total
    return soup


def read_candidate(best: Path, epoch: int) -> dict[str, Tensor]:
    """Returns the weights of a candidate, on the CPU."""
    tensors: dict[str, Tensor] = load_file(candidate_file(best, epoch))
    return tensors
