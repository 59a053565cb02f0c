"""Device, precision, compilation and memory of a training."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from torch import nn

from finetune.config import MachineConfig, Precision
from finetune.errors import ConfigError, DeviceError
from finetune.processes import local_processes
from finetune.training.distributed import World, processes
from finetune.training.events import Callback, Note

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare_speed(module: nn.Module, config: MachineConfig, *, callback: Callback) -> bool:
    """Compiles a network in place if `config` asks for it; returns whether it was compiled.

    In place, so that tensors keep their names and checkpoints load with or without compilation.
    Without a compiler the network is not compiled, and a note has the reason.
    """
    if not config.compile:
        return False
    reason = missing_compiler(next(module.parameters()).device)
    if reason is not None:
        callback(
            Note(text=f"--compile: torch cannot compile here ({reason}); training without it.")
        )
        return False
    module.compile()
    return True


def missing_compiler(device: torch.device) -> str | None:
    """Returns why torch cannot compile for a device, found by compiling one addition; else None."""

    def add(values: torch.Tensor) -> torch.Tensor:
        return values + 1

    try:
        torch.compile(add)(torch.zeros(8, device=device))
    except Exception as error:  # noqa: BLE001 - a compiler fails in as many ways as it has parts
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (lines or [type(error).__name__])[0].rstrip(".:")
    return None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in use: of the ``GPU``, or ``RAM``."""

    where: str
    used_bytes: int

    def __str__(self) -> str:
        if self.used_bytes >= 0.95e9:
            return f"{self.used_bytes / 1e9:.1f} GB {self.where}"
        return f"{self.used_bytes / 1e6:.0f} MB {self.where}"


def memory_in_use() -> Memory:
    """Returns the memory in use: of the CUDA device if one is used, else the resident set.

    Does not synchronize: torch's allocator counts on the host.
    """
    if torch.cuda.is_available():
        reserved = torch.cuda.memory_reserved()
        if reserved:
            return Memory(where="GPU", used_bytes=reserved)
    return Memory(where="RAM", used_bytes=psutil.Process().memory_info().rss)


def choose_device(requested: str | None) -> torch.device:
    """Returns the requested device, or the best available: cuda, then mps, then cpu.

    Raises:
        DeviceError: It does not exist.
    """
    if requested is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise DeviceError(f"--device {requested} is not one of cpu, cuda, cuda:1, mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise DeviceError(
                f"--device {requested}: there is no CUDA device on this machine, or torch was "
                "built without CUDA. Leave --device out to use what is there."
            )
        if (device.index or 0) >= count:
            raise DeviceError(
                f"--device {requested}: this machine has {count} CUDA devices, from cuda:0."
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has none. Leave --device out.")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"--device {requested} is not one of cpu, cuda, cuda:1, mps.")
    return device


def process_device(requested: str | None) -> torch.device:
    """Returns the device as `choose_device`; of several GPUs, this process's own.

    Raises:
        DeviceError: It does not exist.
    """
    device = choose_device(requested)
    if device.type == "cuda" and device.index is None and local_processes() > 1:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def autocast_type(config: MachineConfig, device: torch.device) -> torch.dtype:
    """Returns the autocast dtype of a device with these settings."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return kinds[config.precision or default_precision(device)]


def default_precision(device: torch.device) -> Precision:
    """Returns the default precision of a device."""
    return "bf16" if device.type == "cuda" else "fp32"


def make_accelerator(config: MachineConfig) -> Accelerator:
    """Returns accelerate's Accelerator for the device and precision of `config`.

    Raises:
        DeviceError: The device does not exist, or does not support the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    device = choose_device(config.device)
    precision = config.precision or default_precision(device)
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


def join_processes(config: MachineConfig) -> World:
    """Returns the processes that train together, as `accelerate launch` or `torchrun` started them.

    Raises:
        DeviceError: As `make_accelerator`.
    """
    if _started() > 1:
        make_accelerator(config)
    return processes()


def require_one_process(what: str) -> None:
    """Refuses to run in several processes, which would write the same files.

    Raises:
        ConfigError: `accelerate launch` or `torchrun` has started several.
    """
    count = _started()
    if count > 1:
        raise ConfigError(
            f"{what} runs in one process, and {count} were started. Leave out torchrun or "
            "accelerate launch; train, predict, evaluate, similar and crop share their work."
        )


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def peak_memory() -> int:
    """Returns the most memory that this process has used in bytes: of its GPU, if it uses one."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)
