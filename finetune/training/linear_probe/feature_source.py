"""Cached features of a frozen backbone as the data source of heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import evaluation_batches
from finetune.models.features import FeatureCache
from finetune.models.heads import FeatureHeads
from finetune.tasks.base import Objective
from finetune.training.data_source import LoaderConfig, MicroBatch, split_epoch
from finetune.training.distributed import SINGLE_PROCESS
from finetune.training.validation import Outputs, calibrated_loss, plain_loss


class FeatureSource:
    """Cached features of a frozen backbone, for heads that train side by side.

    Args:
        train: Feature keys, one list a view, and targets ``(N,)``. Each epoch uses another view of
            a photo, so that an epoch has the same length for any number of views.
        validation: Validation photos.
        objective: By which the best head is chosen.
    """

    def __init__(
        self,
        heads: FeatureHeads,
        features: FeatureCache,
        train: tuple[Sequence[Sequence[bytes]], Tensor],
        validation: PhotoDataset,
        *,
        loading: LoaderConfig,
        objective: Objective,
    ) -> None:
        self.heads = heads
        self.features = features
        self.objective = objective
        # Features are small: a step needs no micro-batches.
        self.loading = replace(
            loading, batch_size=loading.step_size, accumulate=1, world=SINGLE_PROCESS
        )
        self._train_keys, self._train_targets = train
        self._validation_keys = features.keys(validation)
        self._validation_targets = validation.targets

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing: heads always train."""

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        """Yields micro-batches of features ``(B, F)``, each target repeated for every head."""
        device = self.loading.device
        views = self._train_keys
        for cut in split_epoch(len(self._train_targets), self.loading, epoch, first_step):
            # A photo that comes again in the epoch shows its next view.
            rounds = (cut.indices + cut.keys // len(self._train_targets) + epoch) % len(views)
            shown = zip(rounds.tolist(), cut.indices.tolist(), strict=True)
            keys = [views[view][index] for view, index in shown]
            targets = self._train_targets[torch.from_numpy(cut.indices)].to(device)
            yield MicroBatch(
                inputs=self.features.read(keys).to(device),
                targets=torch.cat([targets] * len(self.heads)),
                share=cut.share,
                completes=cut.completes,
            )

    def validate(self, *, calibrated: bool = False) -> Outputs:
        """Chooses the head of the lowest validation loss and returns its logits.

        Args:
            calibrated: Compare the heads by calibrated loss.
        """
        logits = head_logits(self.heads, self.features, self._validation_keys)
        of_heads = logits.view(-1, len(self.heads), logits.shape[1])  # (N, heads, labels)
        outputs = [
            Outputs(np.ascontiguousarray(one.numpy()), self._validation_targets)
            for one in of_heads.unbind(1)
        ]
        loss_of = calibrated_loss if calibrated else plain_loss
        self.heads.choose([loss_of(one, self.objective) for one in outputs])
        return outputs[int(self.heads.chosen)]


@torch.inference_mode()
def head_logits(head: nn.Module, features: FeatureCache, keys: Sequence[bytes]) -> Tensor:
    """Returns logits ``(N, labels)`` of photos by their features, on the CPU.

    Of `FeatureHeads` they are ``(N * heads, labels)``: a photo's heads stand together.
    """
    device = next(head.parameters()).device
    rows = []
    for step in evaluation_batches(len(keys), 1024):
        logits = head(features.read([keys[i] for i in step]).to(device)).float().cpu()
        by_head = logits.view(-1, len(step), logits.shape[1])  # (heads, B, labels)
        rows.append(by_head.transpose(0, 1).reshape(-1, logits.shape[1]))
    return torch.cat(rows) if rows else torch.zeros(0, 0)
