"""What a training is made of: photos through the whole network, or features through a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.augmentation.gpu import BatchAugment
from finetune.augmentation.mixing import draw_mix, mix, soft_targets
from finetune.augmentation.pipeline import PipelineAugment
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import epoch_batches, evaluation_batches, load_batches
from finetune.evaluation.inference import predict_dataset
from finetune.models.features import FeatureCache
from finetune.models.heads import FeatureHead, set_backbone_frozen
from finetune.photos.spec import InputSpec


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are made.

    Attributes:
        batch_size: Photos a step.
        seed: Decides the order of the photos.
        workers: Processes that decode what the cache does not hold.
        device: Where the network is.
    """

    batch_size: int
    seed: int
    workers: int
    device: torch.device


class PhotoMaterial:
    """Augmented photos for a whole network whose backbone is frozen for the first epochs.

    Args:
        module: The network, on its device.
        spec: What it expects of its pixels.
        train: Photos to learn from.
        validation: Photos to be judged by.
        augment: From working squares to inputs.
        frozen_epochs: Epochs, from the first, in which the head alone trains.
        loading: How batches are made.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: InputSpec,
        train: PhotoDataset,
        validation: PhotoDataset,
        *,
        augment: BatchAugment | PipelineAugment,
        frozen_epochs: int,
        loading: Loading,
    ) -> None:
        self.module = module
        self.spec = spec
        self.train = train
        self.validation = validation
        self.augment = augment
        self.frozen_epochs = frozen_epochs
        self.loading = loading
        self._epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Freezes or frees the backbone for `epoch`."""
        self._epoch = epoch
        set_backbone_frozen(self.module, epoch < self.frozen_epochs)

    def batches(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields inputs ``(B, 3, S, S)`` and targets on the device.

        Targets are ``(B,) int64``, or ``(B, labels)`` probabilities where photos are mixed.
        """
        loading = self.loading
        plan = epoch_batches(len(self.train), loading.batch_size, seed=loading.seed, epoch=epoch)
        pin = loading.device.type == "cuda"
        loaded = load_batches(self.train, plan[first_step:], workers=loading.workers, pin=pin)
        for step, batch in enumerate(loaded, start=first_step):
            images = batch.images.to(loading.device, non_blocking=True)
            targets = batch.targets.to(loading.device, non_blocking=True)
            yield self._mixed(self.augment(images, batch.indices, epoch), targets, epoch, step)

    def _mixed(
        self, inputs: Tensor, targets: Tensor, epoch: int, step: int
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(self.augment, BatchAugment):
            return inputs, targets
        key = (self.loading.seed, epoch, step)
        drawn = draw_mix(self.augment.recipe, batch=len(inputs), size=self.spec.size, key=key)
        if drawn is None:
            return inputs, targets
        labels: int = self.module.num_classes  # type: ignore[assignment]
        return mix(inputs, soft_targets(targets, labels), drawn)

    def validate(self) -> tuple[float, float]:
        """Returns loss in nats and accuracy on the validation photos."""
        self.module.eval()
        logits = predict_dataset(
            self.module, self.spec, self.validation, workers=self.loading.workers
        )
        set_backbone_frozen(self.module, self._epoch < self.frozen_epochs)
        return judge(torch.from_numpy(logits), torch.from_numpy(self.validation.targets))


class FeatureMaterial:
    """Features that a frozen backbone gave once, for a head.

    Args:
        head: What trains.
        features: Where the features are.
        train: Keys of the features to learn from, one list a view, and their targets ``(N,)``. In
            each epoch a photo shows another view, so that an epoch has the same length for any
            number of views.
        validation: Photos to be judged by, likewise.
        loading: How batches are made.
    """

    def __init__(
        self,
        head: FeatureHead,
        features: FeatureCache,
        train: tuple[Sequence[Sequence[bytes]], Tensor],
        validation: PhotoDataset,
        *,
        loading: Loading,
    ) -> None:
        self.head = head
        self.features = features
        self.loading = loading
        self._train_keys, self._train_targets = train
        self._validation_keys = features.keys(validation)
        self._validation_targets = torch.from_numpy(validation.targets)

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing: a head is always free."""

    def batches(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields features ``(B, F)`` and targets ``(B,)`` on the device."""
        loading = self.loading
        views = self._train_keys
        plan = epoch_batches(
            len(self._train_targets), loading.batch_size, seed=loading.seed, epoch=epoch
        )
        for step in plan[first_step:]:
            keys = [views[(epoch + index) % len(views)][index] for index in step.tolist()]
            features = self.features.read(keys)
            targets = self._train_targets[torch.from_numpy(step)]
            yield features.to(loading.device), targets.to(loading.device)

    def validate(self) -> tuple[float, float]:
        """Returns loss in nats and accuracy on the validation photos."""
        logits = head_logits(self.head, self.features, self._validation_keys)
        return judge(logits, self._validation_targets)


@torch.inference_mode()
def head_logits(head: nn.Module, features: FeatureCache, keys: Sequence[bytes]) -> Tensor:
    """Returns logits ``(N, labels)`` of photos by their features, on the CPU."""
    device = next(head.parameters()).device
    rows = [
        head(features.read([keys[i] for i in step]).to(device)).float().cpu()
        for step in evaluation_batches(len(keys), 1024)
    ]
    return torch.cat(rows) if rows else torch.zeros(0, 0)


def judge(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns mean log loss in nats and accuracy of logits ``(N, C)`` on targets ``(N,)``."""
    loss = functional.cross_entropy(logits.double(), targets)
    accuracy = (logits.argmax(1) == targets).double().mean()
    return float(loss), float(accuracy)
