"""Device and precision, through accelerate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from finetune.config import MachineConfig, Precision
from finetune.errors import ConfigError, DeviceError
from finetune.training.processes import Processes, processes

if TYPE_CHECKING:
    from accelerate import Accelerator


def choose_device(asked: str | None) -> torch.device:
    """Returns the device that was asked for, or the best that is there: cuda, then mps, then cpu.

    Raises:
        DeviceError: It is not there, or is no device.
    """
    if asked is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise DeviceError(f"--device {asked} is none of cpu, cuda, cuda:1, mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise DeviceError(
                f"--device {asked}: there is no CUDA device on this machine, or torch was built "
                "without CUDA. Leave --device out to use what is there."
            )
        if (device.index or 0) >= count:
            raise DeviceError(
                f"--device {asked}: this machine has {count} CUDA devices, from cuda:0."
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: there is none on this machine. Leave --device out.")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"--device {asked} is none of cpu, cuda, cuda:1, mps.")
    return device


def autocast_type(config: MachineConfig, device: torch.device) -> torch.dtype:
    """Returns the type in which a network computes on a device with these settings."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return kinds[config.precision or usual_precision(device)]


def usual_precision(device: torch.device) -> Precision:
    """Returns the precision that a device has where none is asked for."""
    return "bf16" if device.type == "cuda" else "fp32"


def make_accelerator(config: MachineConfig) -> Accelerator:
    """Returns accelerate's Accelerator for the device and precision of `config`.

    Raises:
        DeviceError: The device is not there, or cannot do the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    device = choose_device(config.device)
    precision = config.precision or usual_precision(device)
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("--precision fp16 needs a GPU; on the CPU use fp32 or bf16.")
    # accelerate keeps device and precision in process-wide singletons, which would make a second
    # training in the same Python silently use the first one's.
    if PartialState._shared_state and not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.index is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
        )
    finally:
        if device.index is not None:
            os.environ.pop("ACCELERATE_TORCH_DEVICE", None)


def join_processes(config: MachineConfig) -> Processes:
    """Returns the processes that train together, as `accelerate launch` or `torchrun` started them.

    Raises:
        DeviceError: As `make_accelerator`.
    """
    if _started() > 1:
        make_accelerator(config)
    return processes()


def require_one_process(what: str) -> None:
    """Refuses several processes for what would write the same files in each of them.

    Args:
        what: The start of the message: ``"finetune tune"``.

    Raises:
        ConfigError: `accelerate launch` or `torchrun` has started several.
    """
    count = _started()
    if count > 1:
        raise ConfigError(
            f"{what} runs in one process, and {count} were started. Leave out torchrun or "
            "accelerate launch; only finetune train shares its work among processes."
        )


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
