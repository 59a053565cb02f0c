"""Objectives of trainings by settings and labels; balanced sampling and priors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from finetune.config import LabelsConfig
from finetune.data.balance import label_weights, prior_logits, strata
from finetune.data.dataset import targets_of_samples
from finetune.tasks.data_split import DataSplit
from finetune.tasks.losses import (
    Asymmetry,
    asymmetric_loss,
    binary_cross_entropy,
    cross_entropy,
)
from finetune.tasks.objective import Objective, count_right, judge, one_label
from finetune.tasks.task import Task

WHAT_IS_COUNTED = (
    "Beside each epoch stands the mean average precision on validation; of the training photos, "
    "those are counted of which every label is right at 50 %."
)

Loss = Callable[[Tensor, Tensor], Tensor]


def objective_of(labels: LabelsConfig, parts: DataSplit, *, label_smoothing: float) -> Objective:
    """Returns the objective for one label a photo or several.

    Args:
        labels: Which loss, and whether labels weigh unequally in it.
        parts: The photos; their training part has the counts that weights are made of.
        label_smoothing: As in `cross_entropy`; training only.
    """
    weight = None
    if labels.balance == "loss":
        found = label_weights(training_targets(parts), len(parts.labels), beta=labels.balance_beta)
        weight = torch.tensor(found, dtype=torch.float32)
    if parts.task.multi_label:
        return several_labels(labels, parts.task, label_smoothing=label_smoothing, weight=weight)
    if weight is None:
        return one_label(label_smoothing=label_smoothing)
    loss = _weighted(partial(cross_entropy, label_smoothing=label_smoothing), weight)
    return Objective(loss=loss, right=count_right, judge=judge)


def several_labels(
    labels: LabelsConfig, task: Task, *, label_smoothing: float, weight: Tensor | None = None
) -> Objective:
    """Returns the objective of photos with several labels: a sigmoid each, ranked by mAP."""
    plain: Callable[..., Tensor]
    judgment = task.judge
    if labels.multi_label_loss == "asymmetric":
        asymmetry = Asymmetry(
            negative=labels.asymmetric_negative,
            positive=labels.asymmetric_positive,
            margin=labels.asymmetric_margin,
        )
        plain = partial(asymmetric_loss, asymmetry=asymmetry, label_smoothing=label_smoothing)
        # Its probabilities lean upwards, so that their log loss would prefer the epoch that
        # learned least: it is judged by what it brings down.
        bare = partial(asymmetric_loss, asymmetry=asymmetry, label_smoothing=0.0)

        def judgment(logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
            values, truth = torch.as_tensor(logits), torch.as_tensor(targets)
            return float(bare(values, truth)), task.judge(logits, targets)[1]

    else:
        plain = partial(binary_cross_entropy, label_smoothing=label_smoothing)
    return Objective(
        loss=plain if weight is None else _weighted(plain, weight),
        right=count_all_right,
        judge=lambda logits, targets: judgment(logits.numpy(), targets.numpy()),
    )


def _weighted(loss: Callable[..., Tensor], weight: Tensor) -> Loss:
    """Returns a weighted loss; weights move to the logits' device once."""
    on_device: dict[torch.device, Tensor] = {}

    def weighted(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.device not in on_device:
            on_device[logits.device] = weight.to(logits.device)
        return loss(logits, targets, weight=on_device[logits.device])

    return weighted


def count_all_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the number of photos with every label right at a threshold of 50 %.

    Args:
        logits: ``(B, C)``.
        targets: ``(B, C)`` in [0, 1].
    """
    return ((logits > 0) == (targets > 0.5)).all(1).sum()


def start_from_prior(head: nn.Module, parts: DataSplit) -> None:
    """Initializes the bias of a new multi-label head with the label frequencies.

    A head of one label a photo, or one without a bias, stays as it is.
    """
    bias = getattr(head, "bias", None)
    if parts.task.multi_label and isinstance(head, nn.Linear) and isinstance(bias, Tensor):
        with torch.no_grad():
            bias.copy_(torch.from_numpy(prior_logits(training_targets(parts))))


def training_strata(labels: LabelsConfig, parts: DataSplit) -> list[NDArray[np.int64]] | None:
    """Returns the strata of balanced sampling, or None where every photo occurs once."""
    if labels.balance != "sampling":
        return None
    return strata(training_targets(parts), len(parts.labels))


def training_targets(parts: DataSplit) -> NDArray[np.float32] | NDArray[np.int64]:
    """Returns the targets of the training photos: ``(N,) int64`` or ``(N, C) float32``."""
    targets: NDArray[np.float32] | NDArray[np.int64] = targets_of_samples(
        parts.samples["train"], parts.width
    )
    return targets
