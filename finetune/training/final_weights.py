"""Final weights of a full training: the trained network, the head alone, or the average of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune.config import FinalWeights
from finetune.errors import ConfigError, RunError
from finetune.evaluation.intervals import mcnemar, paired_t_test
from finetune.evaluation.probabilities import Floats
from finetune.formatting import percent
from finetune.models.checksum import load_checked
from finetune.runs.folder import RunFolder
from finetune.tasks.base import Objective
from finetune.training.averaging import interpolate, interpolate_weights
from finetune.training.validation import Outputs, calibrated_losses

Choice = Literal["best", "average", "head"]

SHARES: Mapping[Choice, float] = {"head": 0.0, "average": 0.5, "best": 1.0}
"""Weight of the trained network in each choice; the rest is that of the head's network."""

NAMES: Mapping[Choice, str] = {
    "best": "the full network",
    "average": "the average of both",
    "head": "the head on the frozen backbone",
}

EVIDENCE = 0.05
"""Largest p-value at which one network counts as better than the other."""

TOLERANCE, SLACK = 1.1, 0.01
"""Factor and nats by which the loss of a kept average may exceed the head's."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a network on held-out photos: calibrated losses and correctness, ``(N,)``."""

    losses: Floats
    correct: np.ndarray[tuple[int], np.dtype[np.bool_]]

    @classmethod
    def of(cls, outputs: Outputs, objective: Objective) -> Scores:
        """Returns the scores of outputs."""
        rows = zip(
            torch.from_numpy(outputs.logits)[:, None],
            torch.from_numpy(outputs.targets)[:, None],
            strict=True,
        )
        return cls(
            losses=calibrated_losses(outputs, objective),
            correct=np.array([bool(objective.correct(one, target)) for one, target in rows]),
        )

    @property
    def loss(self) -> float:
        """Mean loss in nats."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of the photos that are right."""
        return float(self.correct.mean())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Full network, head on the frozen backbone, and average of both, on the same photos."""

    scores: Mapping[Choice, Scores]

    @property
    def p_value(self) -> float:
        """Paired t-test of the losses of the full network and the head."""
        return paired_t_test(self.scores["best"].losses, self.scores["head"].losses)

    @property
    def accuracy_p_value(self) -> float:
        """McNemar's exact test of their accuracies."""
        full, head = self.scores["best"].correct, self.scores["head"].correct
        return mcnemar(int((full & ~head).sum()), int((head & ~full).sum()))

    @property
    def kept(self) -> Choice:
        """The average of both, unless the evidence is that one of them is better than it.

        Weights between the ends of a training are often better than both (Wortsman et al. 2022,
        arXiv 2109.01903, section 3), but not where training did harm or the ends are in different
        valleys of the loss: an average that is worse than the head is not kept. That the trained
        network has the lower loss says little on a few dozen photos, of which its epoch is the
        best.
        """
        average, head = self.scores["average"], self.scores["head"]
        ends: tuple[Choice, Choice] = ("best", "head")
        better = min(ends, key=lambda end: self.scores[end].loss)
        surely = paired_t_test(self.scores[better].losses, average.losses) < EVIDENCE
        if surely and self.scores[better].loss < average.loss:
            return better
        return "average" if average.loss <= TOLERANCE * head.loss + SLACK else better

    def describe(self) -> str:
        """Returns a sentence on the evidence and the choice."""
        full, head = self.scores["best"], self.scores["head"]
        kept = NAMES[self.kept]
        if self.kept == "average":
            average = self.scores["average"]
            kept += f" ({percent(average.accuracy)}, log loss {average.loss:.3f})"
        return (
            f"Full network: {percent(full.accuracy)} against the head's {percent(head.accuracy)} "
            f"on {len(full.losses):,} held-out photos (p = {self.accuracy_p_value:.2g}), log loss "
            f"{full.loss:.3f} against {head.loss:.3f} (p = {self.p_value:.2g}): kept {kept}."
        )


def compare_weights(
    head: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    outputs: Callable[[dict[str, Tensor]], Outputs],
    objective: Objective,
) -> Comparison:
    """Returns the comparison of two networks and their average.

    Args:
        head: Tensors of the frozen backbone with its head.
        best: Tensors of the trained network.
        outputs: Returns the logits of the held-out photos with some weights.
        objective: Its loss is compared.
    """
    return Comparison(
        scores={
            choice: Scores.of(outputs(interpolate(head, best, share)), objective)
            for choice, share in SHARES.items()
        }
    )


def choose_share(
    requested: FinalWeights | None,
    head: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    outputs: Callable[[dict[str, Tensor]], Outputs],
    objective: Objective,
) -> tuple[float, str]:
    """Returns the weight of the trained network in the model, and a sentence on it.

    Args:
        requested: The setting; None: chosen by the evidence.
        head: As for `compare_weights`.
        best: As for `compare_weights`.
        outputs: As for `compare_weights`.
        objective: As for `compare_weights`.
    """
    if requested == "interpolated":
        interpolation = interpolate_weights(
            head, best, lambda tensors: calibrated_losses(outputs(tensors), objective)
        )
        return interpolation.share, interpolation.describe()
    if requested is not None:
        return SHARES[requested], f"Kept {NAMES[requested]}, as requested by --final-weights."
    comparison = compare_weights(head, best, outputs, objective)
    return SHARES[comparison.kept], comparison.describe()


def read_choice(run: RunFolder, choice: str) -> dict[str, Tensor]:
    """Returns the tensors of one of the networks that a finished run keeps.

    Raises:
        ConfigError: There is no such choice.
        RunError: The run does not have these weights, or they are damaged.
    """
    if choice not in SHARES:
        raise ConfigError(f"--choose {run.path} {choice}: choose one of {', '.join(SHARES)}.")
    if not run.best_file.is_file():
        raise RunError(
            f"{run.path} has no {run.best_file.name}: only a run that trained its full network "
            "with this version keeps weights to choose from."
        )
    if choice == "best":
        return read_network(run.best_file)
    if not run.head_file.is_file():
        raise RunError(
            f"{run.path} has no {run.head_file.name}, since its training did not begin with a head "
            "on the frozen backbone. It can only keep: best."
        )
    return interpolate(read_network(run.head_file), read_network(run.best_file), SHARES[choice])  # type: ignore[index]


def keeps_start(run: RunFolder) -> bool:
    """Returns whether the trained network of a run equals the one before its first epoch."""
    if not run.head_file.is_file():
        return False
    head, best = read_network(run.head_file), read_network(run.best_file)
    return all(torch.equal(value, best[name]) for name, value in head.items())


def read_network(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a network of a run; raises RunError if they are damaged."""
    try:
        return load_checked(file)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged: {error}.") from error
