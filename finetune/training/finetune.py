"""Fine-tuning on augmented photos: the full network, or its head alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from finetune.data.dataset import PhotoDataset, load_to_device
from finetune.models.factory import FROM_SCRATCH, rebuild
from finetune.models.heads import has_linear_head, head_parameters, write_head
from finetune.models.stages import HEAD_ONLY, TrainableStages, backbone_stages, norm_parameters
from finetune.photos.collection import Part
from finetune.training.averaging import interpolate
from finetune.training.batch_size import fit_in_memory
from finetune.training.checkpoints import save_tensors
from finetune.training.data_source import PhotoSource, predict_sharded
from finetune.training.device import prepare_speed
from finetune.training.events import Note
from finetune.training.final_weights import choose_share, read_network
from finetune.training.linear_probe.features import (
    LostPhotosError,
    feature_cache,
    fill_features,
)
from finetune.training.linear_probe.heads import HeadFitter, fit_head, strength_name, strengths_of
from finetune.training.optimizer import Rates, network_groups, parameter_groups
from finetune.training.prepared import Prepared
from finetune.training.results import TrainingOutput
from finetune.training.validation import Outputs
from finetune.training.validation_features import hold_out_validation

if TYPE_CHECKING:
    from accelerate import Accelerator


FEWEST_ERRORS = 6
"""Errors of the head that a full network must correct, and make none, for McNemar's p < 0.05."""


def train_on_photos(
    prepared: Prepared, accelerator: Accelerator, stop: Callable[[], bool]
) -> TrainingOutput:
    """Returns the network, fine-tuned on the training photos."""
    device = accelerator.device
    module = prepared.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = prepared.datasets()
    head_first = starts_from_features(prepared)
    if head_first and not prepared.run.last_checkpoint.is_file():
        train_first_head(prepared, accelerator, datasets)
        if prepared.world.is_main:
            save_tensors(prepared.run.start_checkpoint, module.state_dict(), {})
    prepared.world.broadcast_tensors(module)
    if prepared.world.count > 1 and device.type == "cuda":
        # Synchronized batch norms see all photos of the step; torch supports them only on CUDA.
        module = convert_sync_batchnorm(module)
    unfreezing = plan_unfreezing(prepared, module)
    state = prepared.state(module, unfreezing.groups, accelerator.scaler)
    prepare_speed(module, prepared.config.machine, callback=prepared.callback)
    loading = prepared.loading(device)
    preprocessing = prepared.preprocessing
    source = PhotoSource(
        module,
        preprocessing,
        load_to_device(datasets["train"], device),
        load_to_device(datasets["validation"], device),
        augment=prepared.augmentation(),
        trainable=unfreezing.trainable,
        size=growing_size(prepared),
        loading=loading,
        on_lost=prepared.leave_out,
    )
    loop_config = prepared.loop_config(head_epochs=unfreezing.head_epochs)
    finished = fit_in_memory(
        state,
        source,
        loop_config,
        accelerator,
        callback=prepared.log,
        stop=stop,
        world=prepared.world,
    )
    best = prepared.run.best_checkpoint
    tensors = read_network(best) if best.is_file() else module.state_dict()
    share = None
    if head_first and finished:
        start = read_network(prepared.run.start_checkpoint)
        share, text = choose_share(
            prepared.config.optimization.final_weights,
            start,
            tensors,
            outputs_of_weights(state.module, source),
            loop_config.objective,
        )
        prepared.callback(Note(text=text))
        tensors = interpolate(start, tensors, share)
    # A new network in fp32, as predictions will load it.
    trained = rebuild(
        prepared.loaded.name,
        len(prepared.data_split.labels),
        preprocessing.size,
        {name: value.cpu() for name, value in tensors.items()},
        prepared.config.model_args,
    )
    trained = trained.to(device).eval()
    if device.type != "mps":
        trained = trained.to(memory_format=torch.channels_last)
    logits: dict[Part, NDArray[np.float32]] = {
        part: predict_sharded(
            trained,
            preprocessing,
            photos,
            loading,
            progress=prepared.progress(f"Evaluating {part}"),
        )
        for part, photos in datasets.items()
        if part != "train" and len(photos)
    }
    for part in logits:
        source.name_lost(datasets[part])
    left_out = frozenset(
        photos.samples[index].path for photos in datasets.values() for index in photos.lost
    )
    known: dict[str, NDArray[np.float32]] = {
        part: Outputs(found, datasets[part].targets).without(datasets[part].lost).logits
        for part, found in logits.items()
    }
    held_out = None
    if prepared.world.is_main:
        rest = prepared
        if left_out:
            rest = dataclasses.replace(prepared, data_split=prepared.data_split.without(left_out))
        held_out = hold_out_validation(rest, trained, rest.datasets(), known["validation"])
    return TrainingOutput(
        module=trained,
        logits=known,
        left_out=left_out,
        position=state.position,
        finished=finished,
        held_out=held_out,
        share=share,
        from_head=head_first,
    )


def outputs_of_weights(
    module: nn.Module, source: PhotoSource
) -> Callable[[dict[str, Tensor]], Outputs]:
    """Returns a function from weights to the logits of the validation photos."""

    def outputs(tensors: dict[str, Tensor]) -> Outputs:
        module.load_state_dict(tensors)
        return source.validate()

    return outputs


def train_first_head(
    prepared: Prepared, accelerator: Accelerator, datasets: Mapping[Part, PhotoDataset]
) -> None:
    """Replaces the network's head by one trained on cached features of the frozen backbone.

    A random head would send large gradients into the backbone and distort its features (Kumar et
    al. 2022, "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054).
    """
    # Without augmented views, each of which would cost a pass of the backbone.
    training = dataclasses.replace(prepared.config.training, views=1, label_smoothing=0.0)
    single_view = dataclasses.replace(
        prepared, config=dataclasses.replace(prepared.config, training=training)
    )
    used: dict[Part, PhotoDataset] = {
        part: photos for part, photos in datasets.items() if part != "test"
    }
    with feature_cache(single_view, used) as features:
        try:
            photos = fill_features(single_view, features, used)
        except LostPhotosError as error:
            rest = single_view.without(error.lost)
            train_first_head(rest, accelerator, rest.datasets())
            return
        if not prepared.world.is_main:
            return
        fitter = HeadFitter(
            photos,
            labels=len(prepared.data_split.labels),
            objective=single_view.objective(),
            device=accelerator.device,
            balanced=prepared.config.labels.balance == "sampling",
        )
        found = fit_head(fitter, strengths_of(prepared.config.training.head_l2))
    head = fitter.head(found.solution)
    write_head(prepared.loaded.module, head.weight, head.bias)
    outputs = found.held_out
    right = single_view.objective().correct(
        torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets)
    )
    held_out, wrong = len(outputs.targets), len(outputs.targets) - int(right)
    text = (
        f"The head starts from a linear probe of the frozen backbone: log loss {found.loss:.3f} on "
        f"validation, {wrong} of {held_out:,} photos wrong, {strength_name(found.strength)}."
    )
    if wrong < FEWEST_ERRORS:
        text += (
            " With so few errors, a gain of the full network cannot be measured; --mode head takes "
            "a fraction of the time."
        )
    prepared.callback(Note(text=text))


def opening_epochs(stages: int, epochs: int) -> tuple[int, ...]:
    """Returns the first training epoch, from 0, of each backbone stage.

    The head trains from the first epoch. With ``S`` stages, the ``k``-th from the head opens in
    epoch ``ceil(k E / 2 S)`` of ``E``: the full network trains in the second half (gradual
    unfreezing, Howard and Ruder 2018, arXiv 1801.06146, spread over the available epochs).

    Returns:
        One epoch a stage, from the input to the head.

    Example:
        >>> opening_epochs(5, 12)
        (6, 5, 4, 3, 2)
    """
    return tuple(
        min(math.ceil(k * epochs / (2 * stages)), epochs - 1) for k in range(stages, 0, -1)
    )


def size_at(epoch: int, *, epochs: int, start: int, full: int) -> int:
    """Returns the input size of an epoch, from 0, with progressive resizing, in pixels.

    It grows in equal steps from `start` and is `full` in the last quarter of the epochs
    (progressive learning, Tan and Le 2021, arXiv 2104.00298). In between it is a multiple of 32
    where `full` is, else of 8, so that the network's strides divide it.

    Example:
        >>> [size_at(epoch, epochs=8, start=128, full=224) for epoch in range(8)]
        [128, 128, 160, 160, 192, 192, 224, 224]
    """
    grows = max(1, math.floor(0.75 * epochs))
    if epoch >= grows or epoch >= epochs - 1:
        return full
    if epoch == 0:
        return start
    step = 32 if full % 32 == 0 else 8
    side = start + (full - start) * epoch / grows
    return max(start, math.floor(side / step) * step)


@dataclass(frozen=True, kw_only=True)
class Unfreezing:
    """Parameter groups and trainable stages by epoch.

    Attributes:
        head_epochs: First epochs in which only the head trains, at its full rate.
    """

    groups: list[dict[str, Any]]
    trainable: Callable[[int], TrainableStages]
    head_epochs: int = 0


def starts_from_features(prepared: Prepared) -> bool:
    """Returns whether the head is trained on features before the full network trains."""
    return (
        prepared.config.training.mode != "head"
        and prepared.config.training.head_epochs is None
        and prepared.config.model.weights != FROM_SCRATCH
        and has_linear_head(prepared.loaded.module)
        and not prepared.continues
    )


def head_epochs(prepared: Prepared) -> int:
    """Returns the number of first epochs in which only the head trains."""
    requested = prepared.config.training.head_epochs
    if requested is None:
        # A head cannot use the features of a network without pretrained weights.
        scratch = prepared.config.model.weights == FROM_SCRATCH
        requested = 0 if scratch or starts_from_features(prepared) else 1
    return min(requested, prepared.config.training.epochs - 1)


def plan_unfreezing(prepared: Prepared, module: nn.Module) -> Unfreezing:
    """Returns the unfreezing schedule of a training's mode."""
    training, optimization = prepared.config.training, prepared.config.optimization
    if training.mode == "head":
        groups = parameter_groups(
            head_parameters(module), part="head", lr=training.lr, weight_decay=training.weight_decay
        )
        return Unfreezing(groups=groups, trainable=lambda epoch: HEAD_ONLY)
    stages = backbone_stages(module)
    frozen = norm_parameters(module) if optimization.freeze_norm else frozenset()
    if training.mode == "gradual":
        alone, epochs = 0, opening_epochs(len(stages), training.epochs)
    else:
        alone = head_epochs(prepared)
        epochs = (alone,) * len(stages)
    opens = {name: epoch for stage, epoch in zip(stages, epochs, strict=True) for name in stage}
    groups = network_groups(
        module,
        Rates(
            head=training.lr,
            backbone=training.lr * training.backbone_lr_scale,
            layer_decay=optimization.layer_decay,
            weight_decay=training.weight_decay,
        ),
        first_steps={name: epoch * prepared.steps_per_epoch for name, epoch in opens.items()},
        frozen=frozen,
    )

    def trainable(epoch: int) -> TrainableStages:
        names = frozenset(name for name, first in opens.items() if epoch >= first)
        return TrainableStages(
            names=names - frozen, batch_statistics=optimization.norm_statistics != "kept"
        )

    return Unfreezing(groups=groups, trainable=trainable, head_epochs=alone)


def growing_size(prepared: Prepared) -> Callable[[int], int] | None:
    """Returns the input size by epoch, from 0, for progressive resizing, else None."""
    start, full = prepared.config.optimization.progressive_size, prepared.preprocessing.size
    if start is None:
        return None
    epochs = prepared.config.training.epochs
    return lambda epoch: size_at(epoch, epochs=epochs, start=start, full=full)
