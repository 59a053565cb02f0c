"""Settles a run's batch size where a person has not, and the learning rate that it asks for."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional

from finetune.config import TrainConfig
from finetune.data.loaders import steps_per_epoch
from finetune.errors import ConfigError
from finetune.models.heads import has_linear_head
from finetune.photos.preprocessing import Preprocessing
from finetune.training.batch_size import (
    REFERENCE_BATCH_SIZE,
    find_batch_size,
    is_linear,
    largest_worthwhile,
    lr_factor,
)
from finetune.training.defaults import on_features
from finetune.training.device import autocast_type, choose_device
from finetune.training.distributed import World


def with_batch_size(
    config: TrainConfig,
    asked: TrainConfig,
    module: nn.Module,
    preprocessing: Preprocessing,
    photos: int,
) -> tuple[TrainConfig, list[str]]:
    """Returns the config with its batch size and the learning rate for it, and why.

    A learning rate that a person has given stays.

    Args:
        config: As `defaults.with_mode` returns it.
        asked: What it was before, with what a person has said and nothing else.
        module: The network, on the CPU.
        preprocessing: What it expects of its pixels.
        photos: Training photos.

    Raises:
        DeviceError: Not even one photo fits into the device's memory.
    """
    notes = []
    size = asked.training.batch_size
    accumulate = config.optimization.accumulate
    by_features = on_features(config, linear_head=has_linear_head(module))
    device = choose_device(config.machine.device)
    if size is None and (device.type == "cpu" or by_features):
        size = REFERENCE_BATCH_SIZE
    elif size is None:
        most = largest_worthwhile(photos // accumulate)
        size = try_batch_sizes(module, preprocessing, device, config, most=most)
        if size != REFERENCE_BATCH_SIZE:
            why = (
                "the most that memory holds"
                if size < most
                else f"enough for {photos:,} photos, and memory holds them"
            )
            notes.append(f"Batch size {size}: {why}.")
    lr = config.training.lr
    factor = lr_factor(size * accumulate, config.optimization.optimizer)
    if asked.training.lr is None and lr is not None and factor != 1:
        rule = "in proportion" if is_linear(config.optimization.optimizer) else "by the square root"
        notes.append(
            f"Learning rate {lr * factor:.3g} for {size * accumulate} photos a step: {lr:g} is "
            f"meant for {REFERENCE_BATCH_SIZE}, and goes with them {rule}."
        )
        lr *= factor
    training = dataclasses.replace(config.training, batch_size=size, lr=lr)
    return dataclasses.replace(config, training=training), notes


def check_shares(world: World, config: TrainConfig, photos: int) -> None:
    """Refuses batches of which a process would have no photo.

    Raises:
        ConfigError: A batch has fewer photos than there are processes.
    """
    size = config.training.batch_size or REFERENCE_BATCH_SIZE
    step = photos // steps_per_epoch(photos, size * config.optimization.accumulate)
    smallest = step // math.ceil(step / size)
    if smallest < world.count:
        raise ConfigError(
            f"--batch-size {size}: a batch of {smallest} photos is too small for {world.count} "
            "processes, since each has its share of it. Start fewer of them."
        )


def try_batch_sizes(
    module: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    config: TrainConfig,
    *,
    most: int,
) -> int:
    """Returns the largest batch size up to `most` of which one training step fits on a device.

    The network's weights and statistics are as before when it returns, and on the CPU.
    """
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    frozen = config.training.mode == "head"
    kind = autocast_type(config.machine, device)
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}

    def attempt(size: int) -> None:
        shape = (size, preprocessing.channels, preprocessing.size, preprocessing.size)
        pixels = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=kind, enabled=kind != torch.float32):
            logits = module(pixels)
        targets = torch.zeros(size, dtype=torch.int64, device=device)
        loss = functional.cross_entropy(logits.float(), targets)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        # An optimizer such as AdamW holds two more numbers for each weight from its first step on.
        trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
        held = [torch.empty_like(parameter) for parameter in (*trained, *trained)]
        del held

    try:
        module.to(device).train(not frozen).requires_grad_(not frozen)

        def clean(size: int) -> None:
            try:
                attempt(size)
            finally:
                module.zero_grad(set_to_none=True)

        return find_batch_size(clean, most=most)
    finally:
        module.to("cpu").train()
        module.load_state_dict(before)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
