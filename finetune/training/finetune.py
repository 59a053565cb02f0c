"""Fine-tuning on augmented photos: the full network, or its head alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from finetune.augmentation.pipelines import create_augmentation
from finetune.data.dataset import PhotoDataset, near_device
from finetune.models.factory import rebuild
from finetune.models.heads import write_head
from finetune.photos.collection import Part
from finetune.tasks.objective import Objective
from finetune.training.averaging import interpolate, interpolate_weights
from finetune.training.batch_size import fit_in_memory
from finetune.training.checkpoints import save_tensors
from finetune.training.data_source import EpochSchedule, PhotoSource, predict_sharded
from finetune.training.device import prepare_speed
from finetune.training.events import Note
from finetune.training.linear_probe.heads import HeadData, train_start_head
from finetune.training.linear_probe.probe import feature_cache, fill
from finetune.training.optimizer import DEFAULT_OPTIMIZER, usual_lr
from finetune.training.prepared import Prepared
from finetune.training.resolve import DEFAULT_EPOCHS
from finetune.training.results import Outcome
from finetune.training.unfreezing import growing_size, plan_unfreezing, starts_from_features
from finetune.training.validation import calibrated_losses

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_photos(
    prepared: Prepared, accelerator: Accelerator, stop: Callable[[], bool]
) -> Outcome:
    """Returns the network, fine-tuned on the training photos."""
    device = accelerator.device
    module = prepared.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = prepared.datasets()
    begins = starts_from_features(prepared)
    if begins and not prepared.run.last_checkpoint.is_file():
        give_head(prepared, accelerator, datasets)
        if prepared.world.is_main:
            save_tensors(prepared.run.start_checkpoint, module.state_dict(), {})
    prepared.world.broadcast_tensors(module)
    if prepared.world.count > 1 and device.type == "cuda":
        # Each batch norm then sees the whole step; torch has it for CUDA alone.
        module = convert_sync_batchnorm(module)
    unfreezing = plan_unfreezing(prepared, module)
    state = prepared.state(module, unfreezing.groups, accelerator.scaler)
    prepare_speed(module, prepared.config.machine, callback=prepared.callback)
    loading = prepared.loading(device)
    preprocessing = prepared.preprocessing
    source = PhotoSource(
        module,
        preprocessing,
        near_device(datasets["train"], device),
        near_device(datasets["validation"], device),
        augment=create_augmentation(
            prepared.config.augmentation.augment,
            preprocessing,
            seed=loading.seed,
            overrides=prepared.config.recipe,
        ),
        epoch_schedule=EpochSchedule(trainable=unfreezing.trainable, size=growing_size(prepared)),
        loading=loading,
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
    tensors = load_file(best) if best.is_file() else module.state_dict()
    share = None
    if begins and finished and prepared.config.optimization.final_weights == "interpolated":
        start = load_file(prepared.run.start_checkpoint)
        interpolation = interpolate_weights(
            start, tensors, judge_of(state.module, source, loop_config.objective)
        )
        prepared.callback(Note(text=interpolation.describe()))
        tensors, share = interpolate(start, tensors, interpolation.share), interpolation.share
    # A fresh network in plain fp32, as predict will open it.
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
    return Outcome(
        module=trained,
        logits=logits,
        position=state.position,
        finished=finished,
        share=share,
    )


def judge_of(
    module: nn.Module, source: PhotoSource, objective: Objective
) -> Callable[[dict[str, Tensor]], NDArray[np.float64]]:
    """Returns a function from weights to their calibrated validation losses."""

    def judge(tensors: dict[str, Tensor]) -> NDArray[np.float64]:
        module.load_state_dict(tensors)
        return calibrated_losses(source.validate(), objective)

    return judge


def give_head(
    prepared: Prepared, accelerator: Accelerator, datasets: Mapping[Part, PhotoDataset]
) -> None:
    """Replaces the network's head by one trained on cached features of the frozen backbone.

    A random head would send large gradients into the backbone and distort its features (Kumar et
    al. 2022, "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054).
    """
    # Without augmented views, each of which would cost a pass of the backbone.
    training = dataclasses.replace(prepared.config.training, views=1)
    plain = dataclasses.replace(
        prepared, config=dataclasses.replace(prepared.config, training=training)
    )
    judged: dict[Part, PhotoDataset] = {
        part: photos for part, photos in datasets.items() if part != "test"
    }
    with feature_cache(plain, judged) as features:
        data = HeadData(
            features=features,
            views=fill(plain, features, judged),
            train=judged["train"],
            validation=judged["validation"],
        )
        if not prepared.world.is_main:
            return
        found = train_start_head(
            plain,
            accelerator,
            data,
            epochs=DEFAULT_EPOCHS["head"],
            lr=usual_lr(DEFAULT_OPTIMIZER),
        )
    weight, bias = found.head.folded()
    write_head(prepared.loaded.module, weight, bias)
    prepared.callback(
        Note(
            text=f"The head starts from what it learns on the frozen backbone: log loss "
            f"{found.loss:.3f} on validation, L2 strength {found.strength:g}."
        )
    )
