"""Heads on cached features: one for each L2 strength, of which validation chooses."""

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

from finetune.config import OptimizationConfig
from finetune.data.dataset import PhotoDataset
from finetune.errors import ConfigError
from finetune.models.features import FeatureCache, standardization
from finetune.models.heads import FeatureHead, FeatureHeads
from finetune.runs.folder import RunFolder
from finetune.tasks.objective import Objective
from finetune.training.batch_size import REFERENCE_BATCH_SIZE
from finetune.training.checkpoints import Position
from finetune.training.data_source import FeatureSource
from finetune.training.events import ignore
from finetune.training.linear_probe.solver import looks_at, to_minimum
from finetune.training.loop import fit
from finetune.training.objectives import start_from_prior
from finetune.training.optimizer import DEFAULT_OPTIMIZER
from finetune.training.prepared import Prepared
from finetune.training.resolve import ResolvedTraining
from finetune.training.validation import plain_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

L2_STRENGTHS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""What validation chooses from: logistic regression's C = 1 / (strength * photos)."""

RATES = (3.0, 1.0)
"""Shares of the learning rate that each strength is tried at.

In 25 epochs a hundred photos make too few steps for the lower, a few thousand too many for the
higher. Heads that are brought to their minimum afterwards take the first alone.
"""

MOST_NUMBERS = 2**24
"""Weights that all heads may have together; of many labels fewer heads are tried."""

REST_SECONDS = 1.0
"""Seconds between two checkpoints at least: so much is lost at most when a process is killed."""

HEAD_OPTIMIZER = "adam"
"""Stands in for AdamW, whose decay is no L2 penalty: it is no part of the gradient."""


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """What heads learn from and are judged by.

    Attributes:
        features: Where the features are, all of them computed.
        views: Keys of the training photos' features, one list a view.
        train: The training photos.
        validation: The validation photos.
    """

    features: FeatureCache
    views: Sequence[Sequence[bytes]]
    train: PhotoDataset
    validation: PhotoDataset


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """What a training of heads came to.

    Attributes:
        head: The best epoch's best one.
        strength: Its L2 strength.
        lr: Its learning rate.
        strengths: What it was chosen from.
        loss: Its log loss on validation in nats, before any calibration.
        looks: Looks at the photos with which it came to its minimum; 0: it was left as its last
            step left it.
        position: How far the training came, and which epoch was best.
        finished: Whether it came to its last epoch.
    """

    head: FeatureHead
    strength: float
    lr: float
    strengths: tuple[float, ...]
    loss: float
    looks: int
    position: Position
    finished: bool

    def in_words(self) -> str:
        """Returns what was chosen, and from what."""
        tried = ", ".join(f"{strength:g}" for strength in self.strengths)
        how = "" if self.looks else f" at learning rate {self.lr:g}"
        return (
            f"L2 strength {self.strength:g} of {tried}{how}: the lowest calibrated log loss on "
            "validation."
        )


def train_heads(
    prepared: Prepared, accelerator: Accelerator, data: HeadData, *, stop: Callable[[], bool]
) -> TrainedHead:
    """Returns the head that validation chose, from wherever the run's last checkpoint is."""
    device = accelerator.device
    features = data.features
    mean, std = standardization(features.read, [key for view in data.views for key in view])
    strengths = strengths_of(prepared.config.training.head_l2)
    labels = len(prepared.data_split.labels)
    looks = looks_of(prepared, sum(map(len, data.views)))
    tried = heads_to_try(strengths, rates=RATES[:1] if looks else RATES, numbers=labels * len(mean))
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
        for head in heads:
            start_from_prior(head.linear, prepared.data_split)
    named = prepared.config.optimization.optimizer
    optimizer = HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named
    groups = heads.parameter_groups(lr=prepared.config.training.lr)
    state = prepared.state(heads, groups, accelerator.scaler, optimizer=optimizer)
    plan = prepared.plan()
    # At its last epoch every head's rate has come to rest, and the strengths are what they say;
    # picking the luckiest of all epochs as well would choose by chance once more.
    whole = plan.patience is None and plan.soup == 1
    # Epochs of milliseconds: writing each down would take longer than training it.
    rests = whole and prepared.config.optimization.ema is None
    rest = REST_SECONDS if rests else 0.0
    plan = dataclasses.replace(plan, by_loss=True, keep_last=whole, rest_seconds=rest)
    source = FeatureSource(
        heads,
        features,
        (data.views, torch.from_numpy(data.train.targets)),
        data.validation,
        loading=prepared.loading(device),
        objective=plan.objective,
    )
    finished = fit(state, source, plan, accelerator, callback=prepared.log, stop=stop)
    # Epochs that rested left no file: of a training that was stopped, what it has now is newer.
    if prepared.run.best_checkpoint.is_file() and (finished or not rests):
        heads.load_state_dict(load_file(prepared.run.best_checkpoint))
    if not finished:
        looks = 0
    if looks:
        settle(heads, data, plan.objective, looks=looks)
    answers = source.validate(calibrated=True)
    chosen = int(heads.chosen)
    return TrainedHead(
        head=heads[chosen],
        strength=heads.strengths[chosen],
        lr=prepared.config.training.lr * heads.rates[chosen],
        strengths=strengths,
        loss=plain_loss(answers, plan.objective),
        looks=looks,
        position=state.position,
        finished=finished,
    )


def looks_of(prepared: Prepared, photos: int) -> int:
    """Returns how often heads may look at all photos on the way to their minimum; 0: not at all.

    Not where a person chose another way to train them, photos count unequally often, or a head goes
    on from an earlier run's, which the minimum would forget.
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
    return looks_at(photos) if by_default else 0


def settle(heads: FeatureHeads, data: HeadData, objective: Objective, *, looks: int) -> None:
    """Brings each head to its minimum, in place."""
    features = data.features.read([key for view in data.views for key in view])
    targets = torch.from_numpy(np.concatenate([data.train.targets] * len(data.views)))
    for head, strength in zip(heads, heads.strengths, strict=True):
        to_minimum(head, features, targets, objective.loss, strength=strength, looks=looks)


def train_start_head(
    prepared: Prepared, accelerator: Accelerator, data: HeadData, *, epochs: int, lr: float
) -> TrainedHead:
    """Returns a head for the full network to start from; leaves nothing in the run.

    It takes seconds, so that an interruption waits for its end, and a resume makes it anew.
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
    """Returns strength and share of the learning rate of each head to train.

    Args:
        strengths: L2 strengths.
        rates: Shares of the learning rate.
        numbers: Weights of one head; where they are many, fewer heads are tried.
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
