"""Linear heads on cached features, one for each L2 strength; validation picks one."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.config import OptimizationConfig
from finetune.data.dataset import PhotoDataset
from finetune.errors import ConfigError
from finetune.models.features import FeatureCache, standardization
from finetune.models.heads import FeatureHead, FeatureHeads
from finetune.models.lbfgs import minimize
from finetune.runs.folder import RunFolder
from finetune.tasks.base import Objective
from finetune.training.batch_size import REFERENCE_BATCH_SIZE
from finetune.training.checkpoints import Position
from finetune.training.events import ignore
from finetune.training.linear_probe.feature_source import FeatureSource
from finetune.training.loop import fit
from finetune.training.optimizer import DEFAULT_OPTIMIZER
from finetune.training.prepared import Prepared
from finetune.training.resolve import ResolvedTraining
from finetune.training.validation import plain_loss

if TYPE_CHECKING:
    from accelerate import Accelerator


L2_STRENGTHS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""L2 strengths to try; validation picks one. Logistic regression's C is 1 / (strength * photos)."""

RATES = (3.0, 1.0)
"""Factors of the learning rate to try for each strength.

In 25 epochs a hundred photos make too few steps for the lower, a few thousand too many for the
higher. Heads that the solver finishes use the first alone.
"""

MOST_NUMBERS = 2**24
"""Most weights of all heads together; with many labels fewer heads are tried."""

MIN_CHECKPOINT_SECONDS = 1.0
"""Shortest time between two checkpoints, and so the most that a kill can lose."""

HEAD_OPTIMIZER = "adam"
"""Used instead of AdamW, whose decoupled weight decay is not an L2 penalty."""


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """Features and photos of a linear probe.

    Attributes:
        features: Filled feature cache.
        views: Feature keys of the training photos, one list a view.
    """

    features: FeatureCache
    views: Sequence[Sequence[bytes]]
    train: PhotoDataset
    validation: PhotoDataset


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """Head that validation picked.

    Attributes:
        strengths: L2 strengths it was picked from.
        loss: Log loss on validation in nats, uncalibrated.
        max_evals: Evaluations allowed to the solver; 0: it was not used.
    """

    head: FeatureHead
    strength: float
    lr: float
    strengths: tuple[float, ...]
    loss: float
    max_evals: int
    position: Position
    finished: bool

    def describe(self) -> str:
        """Returns a sentence on the choice."""
        tried = ", ".join(f"{strength:g}" for strength in self.strengths)
        how = "" if self.max_evals else f" at learning rate {self.lr:g}"
        return (
            f"L2 strength {self.strength:g} of {tried}{how}: the lowest calibrated log loss on "
            "validation."
        )


def train_heads(
    prepared: Prepared, accelerator: Accelerator, data: HeadData, *, stop: Callable[[], bool]
) -> TrainedHead:
    """Trains heads from the run's last checkpoint on and returns the one that validation picks."""
    device = accelerator.device
    features = data.features
    mean, std = standardization(features.read, [key for view in data.views for key in view])
    strengths = strengths_of(prepared.config.training.head_l2)
    labels = len(prepared.data_split.labels)
    max_evals = solver_evals(prepared, sum(map(len, data.views)))
    tried = heads_to_try(
        strengths, rates=RATES[:1] if max_evals else RATES, numbers=labels * len(mean)
    )
    heads = FeatureHeads(
        mean,
        std,
        labels,
        strengths=[strength for strength, _ in tried],
        rates=[rate for _, rate in tried],
    ).to(device)
    if prepared.continues:
        parent = prepared.loaded.module.get_classifier()  # type: ignore[operator]
        for head in heads:
            head.unfold(parent.weight, parent.bias)
    else:
        split = prepared.data_split
        for head in heads:
            split.task.initialize_head(head.linear, split.targets("train"))
    named = prepared.config.optimization.optimizer
    optimizer = HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named
    groups = heads.parameter_groups(lr=prepared.config.training.lr)
    state = prepared.state(heads, groups, accelerator.scaler, optimizer=optimizer)
    loop_config = prepared.loop_config()
    # The last epoch has the lowest learning rate, and picking the luckiest of all epochs as well
    # would be one more choice by chance.
    whole = loop_config.patience is None and loop_config.soup == 1
    # An epoch takes milliseconds, less than writing a checkpoint.
    skip_checkpoint = whole and prepared.config.optimization.ema is None
    rest = MIN_CHECKPOINT_SECONDS if skip_checkpoint else 0.0
    loop_config = dataclasses.replace(
        loop_config, by_loss=True, keep_last=whole, min_checkpoint_seconds=rest
    )
    source = FeatureSource(
        heads,
        features,
        (data.views, torch.from_numpy(data.train.targets)),
        data.validation,
        loading=prepared.loading(device),
        objective=loop_config.objective,
    )
    finished = fit(state, source, loop_config, accelerator, callback=prepared.log, stop=stop)
    # Epochs without a checkpoint left no file, so a stopped training has newer weights in memory.
    if prepared.run.best_checkpoint.is_file() and (finished or not skip_checkpoint):
        heads.load_state_dict(load_file(prepared.run.best_checkpoint))
    if not finished:
        max_evals = 0
    if max_evals:
        solve_heads(heads, data, loop_config.objective, max_evals=max_evals)
    outputs = source.validate(calibrated=True)
    chosen = int(heads.chosen)
    return TrainedHead(
        head=heads[chosen],
        strength=heads.strengths[chosen],
        lr=prepared.config.training.lr * heads.rates[chosen],
        strengths=strengths,
        loss=plain_loss(outputs, loop_config.objective),
        max_evals=max_evals,
        position=state.position,
        finished=finished,
    )


def solver_evals(prepared: Prepared, photos: int) -> int:
    """Returns the loss evaluations allowed to the solver; 0: the training is left as it is.

    The solver is skipped with other than default optimization, with balanced sampling, and for a
    head that continues a parent run's, which the minimum would forget.
    """
    optimization, labels = prepared.config.optimization, prepared.config.labels
    by_default = (
        optimization.optimizer == DEFAULT_OPTIMIZER
        and optimization.patience is None
        and optimization.ema is None
        and optimization.soup == 1
        and labels.balance != "sampling"
        and not prepared.continues
    )
    return max_evals_for(photos) if by_default else 0


def solve_heads(
    heads: FeatureHeads, data: HeadData, objective: Objective, *, max_evals: int
) -> None:
    """Minimizes each head, in place."""
    features = data.features.read([key for view in data.views for key in view])
    targets = torch.from_numpy(np.concatenate([data.train.targets] * len(data.views)))
    for head, strength in zip(heads, heads.strengths, strict=True):
        minimize_head(
            head, features, targets, objective.loss, strength=strength, max_evals=max_evals
        )


def train_start_head(
    prepared: Prepared, accelerator: Accelerator, data: HeadData, *, epochs: int, lr: float
) -> TrainedHead:
    """Returns a head for the full network to start from; writes nothing to the run.

    It takes seconds: an interruption waits for it, and a resume repeats it.
    """
    training = ResolvedTraining(
        mode="head",
        epochs=epochs,
        lr=lr,
        backbone_lr_scale=1.0,
        warmup=0.1,
        label_smoothing=0.0,
        head_l2=prepared.config.training.head_l2,
        batch_size=REFERENCE_BATCH_SIZE,
    )
    config = dataclasses.replace(
        prepared.config, training=training, optimization=OptimizationConfig()
    )
    with tempfile.TemporaryDirectory(prefix="finetune-head-") as folder:
        alone = dataclasses.replace(
            prepared, run=RunFolder(Path(folder)), config=config, callback=ignore, metrics={}
        )
        return train_heads(alone, accelerator, data, stop=lambda: False)


def heads_to_try(
    strengths: Sequence[float], *, rates: Sequence[float] = RATES, numbers: int
) -> list[tuple[float, float]]:
    """Returns L2 strength and learning rate factor of each head to train.

    Args:
        strengths: L2 strengths.
        rates: Learning rate factors.
        numbers: Weights of one head; large heads are tried with fewer strengths.
    """
    every = [(strength, rate) for strength in strengths for rate in rates]
    most = max(2, MOST_NUMBERS // numbers)
    if len(every) <= most:
        return every
    return [every[round(k * (len(every) - 1) / (most - 1))] for k in range(most)]


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


MAX_EVALS = 50
"""Most evaluations of the loss."""

MIN_EVALS = 20
"""Below this number the solver is skipped: the epochs made enough steps."""

MAX_PHOTO_EVALS = 50_000
"""Most photos over all evaluations, to keep the solver within seconds."""


def max_evals_for(photos: int) -> int:
    """Returns the evaluations allowed for a number of photos; 0: skip the solver."""
    max_evals = min(MAX_EVALS, MAX_PHOTO_EVALS // max(photos, 1))
    return max_evals if max_evals >= MIN_EVALS else 0


def minimize_head(
    head: FeatureHead,
    features: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    strength: float,
    max_evals: int,
) -> None:
    """Minimizes a head to where ``loss + strength / 2 * |W|^2`` is lowest.

    With cross-entropy that is scikit-learn's logistic regression of ``C = 1 / (strength * N)``.
    Computed in float64.

    Args:
        head: Changed in place; its statistics stay.
        features: ``(N, F) float32`` of all training photos, on the CPU.
        targets: ``(N,)``, or ``(N, labels)`` where a photo may have several.
        loss: As in `Objective`.
        strength: L2 strength; biases have none.
        max_evals: Evaluations of the loss at most.
    """
    mean, std = head.mean.double().cpu(), head.std.double().cpu()
    standard = (features.double() - mean) / std
    weight = head.linear.weight.detach().double().cpu().clone().requires_grad_()
    bias = head.linear.bias.detach().double().cpu().clone().requires_grad_()

    def value() -> Tensor:
        fit = loss(standard @ weight.T + bias, targets)
        return fit + strength / 2 * weight.square().sum()

    minimize(value, [weight, bias], max_evals=max_evals, gradient_tolerance=1e-6)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
