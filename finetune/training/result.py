"""What a training came to, before it is judged and written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finetune.evaluation.cross_fit import CrossFit
from finetune.evaluation.mahalanobis import RelativeDistance
from finetune.photos.collection import Part
from finetune.training.checkpoints import Position


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What `finetune.training.results` calibrates with.

    Attributes:
        answers: To photos and labels held out.
        distance: From the training photos, of features.
    """

    answers: CrossFit
    distance: RelativeDistance


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to.

    Attributes:
        module: The network with its best weights, in eval mode and fp32.
        logits: ``(N, labels)`` of the validation and test photos, in their order.
        position: How far it came, and which epoch was best.
        finished: Whether it came to its last epoch.
        held_out: Answers to photos and labels held out of heads like its own, where there are.
        share: Share of the way from start to best epoch at which the weights were taken, or None.
    """

    module: nn.Module
    logits: dict[Part, NDArray[np.float32]]
    position: Position
    finished: bool
    held_out: HeldOut | None = None
    share: float | None = None

    def summary(self) -> dict[str, Any]:
        """Returns what config.json says of it."""
        return {
            "finished": self.finished,
            "best_epoch": self.position.best_epoch,
            "epochs_done": self.position.epoch,
            "training_seconds": round(self.position.seconds, 3),
            **({} if self.share is None else {"share_of_training": self.share}),
        }
