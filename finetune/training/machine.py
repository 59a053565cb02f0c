"""Device and precision, through accelerate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from finetune.config import MachineConfig
from finetune.errors import DeviceError

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


def make_accelerator(config: MachineConfig) -> Accelerator:
    """Returns accelerate's Accelerator for the device and precision of `config`.

    Raises:
        DeviceError: The device is not there, or cannot do the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    device = choose_device(config.device)
    precision = config.precision or ("bf16" if device.type == "cuda" else "fp32")
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
