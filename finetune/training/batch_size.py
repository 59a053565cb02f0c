"""Batch size: the largest that fits into memory, and the learning rate for it.

The settings fix the photos of a step. If these do not fit into memory, they are split into smaller
micro-batches whose gradients are added up, so that the step stays the same.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from finetune.config import MachineConfig
from finetune.errors import ConfigError, DeviceError
from finetune.photos.preprocessing import Preprocessing
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import LoaderConfig, PhotoSource
from finetune.training.device import autocast_type
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.events import Callback, Note
from finetune.training.loop import LoopConfig, fit

if TYPE_CHECKING:
    from accelerate import Accelerator

REFERENCE_BATCH_SIZE = 32
"""Photos per step for which the default learning rates are set."""

LARGEST_BATCH_SIZE = 256
"""Largest batch size to try: beyond it a GPU is no faster, and most collections give few steps."""

MIN_STEPS_PER_EPOCH = 20
"""Fewest steps an epoch with a larger batch."""

LINEAR_RULE = ("sgd", "nesterov", "momentum")
"""Prefixes of the optimizers whose step is proportional to the gradient."""


def lr_factor(photos: int, optimizer: str) -> float:
    """Returns the factor on a learning rate for a step size in photos.

    With ``k = photos / REFERENCE_BATCH_SIZE``: k for SGD, whose steps are proportional to it
    (Goyal et al. 2017, arXiv 1706.02677); the square root of k for optimizers that divide by the
    gradient's own size, such as Adam (Malladi et al. 2022, arXiv 2205.10287).
    """
    growth = photos / REFERENCE_BATCH_SIZE
    return growth if is_linear(optimizer) else math.sqrt(growth)


def is_linear(optimizer: str) -> bool:
    """Returns whether the linear scaling rule applies to an optimizer."""
    return optimizer.lower().removeprefix("lookahead_").startswith(LINEAR_RULE)


def max_batch_size(photos: int) -> int:
    """Returns the largest batch size to try for a number of training photos."""
    size = REFERENCE_BATCH_SIZE
    while size < LARGEST_BATCH_SIZE and photos >= MIN_STEPS_PER_EPOCH * 2 * size:
        size *= 2
    return size


def find_batch_size(attempt: Callable[[int], None], *, most: int) -> int:
    """Returns the largest batch size up to `most` with which `attempt` runs.

    From `REFERENCE_BATCH_SIZE` it is doubled while it fits, or halved until it does.

    Args:
        attempt: Runs a step of a batch size; raises an out-of-memory error.
        most: Largest size to try.

    Raises:
        DeviceError: Not even one photo fits.
    """

    def fits(size: int) -> bool:
        try:
            attempt(size)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            free_memory()
        return True

    size = min(REFERENCE_BATCH_SIZE, most)
    if not fits(size):
        while size > 1:
            size //= 2
            if fits(size):
                return size
        raise DeviceError(OUT_OF_MEMORY)
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size


def try_batch_sizes(
    module: nn.Module,
    preprocessing: Preprocessing,
    device: torch.device,
    machine: MachineConfig,
    *,
    frozen: bool,
    most: int,
) -> int:
    """Returns the largest batch size up to `most` whose training step fits on a device.

    `frozen` trains the head alone. The network is on the CPU and unchanged afterwards.
    """
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    kind = autocast_type(machine, device)
    requires_grad = {name: parameter.requires_grad for name, parameter in module.named_parameters()}

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
        moments = [torch.empty_like(parameter) for parameter in (*trained, *trained)]
        del moments

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
            parameter.requires_grad_(requires_grad[name])


def fit_in_memory(
    state: TrainState,
    source: PhotoSource,
    loop_config: LoopConfig,
    accelerator: Accelerator,
    *,
    callback: Callback,
    stop: Callable[[], bool],
    world: World = SINGLE_PROCESS,
) -> bool:
    """Trains as `loop.fit` does, with smaller micro-batches whenever memory runs out.

    The failed step is repeated with the same photos and learning rate; batch norms see the smaller
    micro-batches. With several processes the error is raised, since one cannot repeat a step alone.

    Raises:
        ConfigError: Batch norm takes statistics, and a micro-batch has one photo.
        DeviceError: Not even one photo fits.
        StorageError: As `loop.fit`.
    """
    while True:
        try:
            return fit(
                state, source, loop_config, accelerator, callback=callback, stop=stop, world=world
            )
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"--batch-size {source.loading.batch_size}: batch norm cannot take statistics of a "
                "single photo at this size. Use --batch-size 4 or more, or a larger --size."
            ) from error
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if world.count > 1:
                raise DeviceError(
                    f"Out of memory with --batch-size {source.loading.batch_size} on "
                    f"{world.count} processes. Halve it, and double --accumulate."
                ) from error
        # Outside the handler, since the error's traceback keeps the tensors alive.
        source.loading = smaller(source.loading)
        state.optimizer.zero_grad(set_to_none=True)
        # The next `fit` prepares the module again.
        accelerator.unwrap_model(state.module, keep_fp32_wrapper=False)
        accelerator.free_memory()
        free_memory()
        loading = source.loading
        callback(
            Note(
                text=f"Out of memory: {loading.batch_size} photos at a time from here on, "
                f"{loading.accumulate} times a step; a step still has {loading.step_size}."
            )
        )


def smaller(loading: LoaderConfig) -> LoaderConfig:
    """Returns the loader config with micro-batches of half the size, or less where needed.

    Raises:
        DeviceError: The micro-batches are single photos already.
    """
    step = loading.step_size
    sizes = [size for size in range(1, loading.batch_size // 2 + 1) if step % size == 0]
    if not sizes:
        raise DeviceError(OUT_OF_MEMORY)
    return dataclasses.replace(loading, batch_size=sizes[-1], accumulate=step // sizes[-1])


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error is an out-of-memory error of CUDA, MPS or XPU."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def free_memory() -> None:
    """Releases unused memory of the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


OUT_OF_MEMORY = (
    "The device's memory is too small for one photo with this network. Use a smaller --size or a "
    "smaller --model, --mode head, or --device cpu."
)
