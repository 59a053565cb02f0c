"""Checkpoints: state of a training in one safetensors file, serialized losslessly."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.errors import RunError
from finetune.files import parse_json, replacing
from finetune.models.checksum import CHECKSUM_KEY, checksum_of
from finetune.training.averaging import Candidate, WeightAverage

_Count = Annotated[int, Meta(ge=0, le=10**12)]

_DAMAGE = (
    SafetensorError,
    OSError,
    KeyError,
    IndexError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
)
"""Errors that reading a damaged checkpoint raises."""


def serialize(value: Any, tensors: dict[str, Tensor], *, name: str, device: torch.device) -> Any:
    """Returns `value` as JSON, and puts its tensors into `tensors`.

    Args:
        value: Numbers, text, None, tensors, dtypes, and lists, tuples and dicts of these.
        tensors: Receives the tensors, on the CPU and contiguous.
        name: Prefix of the tensors' names.
        device: Expected device of the tensors; stored only where a tensor is on another.

    Raises:
        TypeError: `value` contains something else.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        entry: dict[str, Any] = {"tensor": name}
        if value.device != device:
            entry["device"] = str(value.device)
        if not value.is_contiguous():
            # The memory layout decides the order of a sum over the tensor, and so its last bits.
            entry["stride"] = list(value.stride())
        return entry
    if isinstance(value, dict):
        items = enumerate(value.items())
        return {
            "dict": [
                [key, serialize(item, tensors, name=f"{name}.{place}", device=device)]
                for place, (key, item) in items
            ]
        }
    if isinstance(value, list | tuple):
        parts = [
            serialize(item, tensors, name=f"{name}.{place}", device=device)
            for place, item in enumerate(value)
        ]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is {type(value).__name__}, which a checkpoint cannot store")


def deserialize(serialized: Any, tensors: dict[str, Tensor], *, device: torch.device) -> Any:
    """Returns the value that `serialize` was given.

    Raises:
        KeyError: A tensor is missing.
    """
    if isinstance(serialized, list):
        return [deserialize(item, tensors, device=device) for item in serialized]
    if not isinstance(serialized, dict):
        return serialized
    if "dtype" in serialized:
        return getattr(torch, serialized["dtype"])
    if "tuple" in serialized:
        return tuple(deserialize(item, tensors, device=device) for item in serialized["tuple"])
    if "dict" in serialized:
        return {key: deserialize(item, tensors, device=device) for key, item in serialized["dict"]}
    value = tensors[serialized["tensor"]]
    device = serialized.get("device", device)
    if "stride" not in serialized:
        return value.to(device, copy=True)
    strided = torch.empty_strided(
        value.shape, serialized["stride"], dtype=value.dtype, device=device
    )
    return strided.copy_(value)


MACHINE_OPTIONS = ("fused", "foreach", "capturable")
"""Optimizer options that depend on the machine and are not restored from a checkpoint."""


@dataclass
class Position:
    """Position in the training.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the current epoch.
        best_accuracy: Best validation accuracy so far, -1 before the first.
        best_epoch: That epoch, from 1; 0 before the first.
    """

    epoch: _Count = 0
    step: _Count = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: _Count = 0
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    candidates: list[Candidate] = field(default_factory=list)


@dataclass
class TrainState:
    """Module, optimizer and position of a training: saved and resumed as one object.

    Attributes:
        module: The full network, or a head on features.
        running: ``(3,) float64``: loss, correct predictions, photos; summed over the epoch so far.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    scaler: Any = None
    running: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    position: Position = field(default_factory=Position)

    def kept_weights(self) -> dict[str, Tensor]:
        """Returns the tensors that are validated and saved: the moving average if there is one."""
        return self.module.state_dict() if self.average is None else self.average.tensors

    def save(self, path: Path) -> None:
        """Writes the state to one file, atomically.

        Raises:
            StorageError: The disk is full; the checkpoint before it is intact.
        """
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": v for name, v in self.average.tensors.items()}
        tensors["running"] = self.running
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        optimizer = serialize(
            self.optimizer.state_dict(), tensors, name="optimizer", device=self._device()
        )
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        tensors = {name: value.detach().cpu() for name, value in tensors.items()}
        metadata = {
            "position": asdict(self.position),
            "optimizer": optimizer,
            "scaler": scaler,
            CHECKSUM_KEY: checksum_of(tensors),
        }
        # Under one key: safetensors writes several in random order.
        save_tensors(path, tensors, {"training": json.dumps(metadata)})

    def load(self, path: Path) -> None:
        """Restores what `save` wrote, bit by bit.

        Raises:
            RunError: The file is damaged, or from another training.
        """
        try:
            metadata = _read_metadata(path)
            position = msgspec.convert(metadata["position"], Position)
            tensors = load_file(path)
            if metadata.get(CHECKSUM_KEY, checksum_of(tensors)) != checksum_of(tensors):
                raise OSError("its tensors do not have the checksum that they were written with")
            self.module.load_state_dict(_part(tensors, "module."))
            if self.average is not None:
                self.average.load(_part(tensors, "average."))
            self._load_optimizer(metadata["optimizer"], tensors)
            if self.scaler is not None and metadata["scaler"]:
                self.scaler.load_state_dict(metadata["scaler"])
            self.running = tensors["running"].to(self.running.device)
            self.position = position
            torch.set_rng_state(tensors["random"])
            if "random_cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["random_cuda"])
        except _DAMAGE as error:
            raise RunError(f"The checkpoint {path} cannot be resumed: {error}.") from error

    def _load_optimizer(self, serialized: Any, tensors: dict[str, Tensor]) -> None:
        saved = deserialize(serialized, tensors, device=self._device())
        fresh = self.optimizer.state_dict()["param_groups"]
        for group, own in zip(saved["param_groups"], fresh, strict=True):
            group.update({name: own[name] for name in MACHINE_OPTIONS if name in own})
        self.optimizer.load_state_dict(saved)
        # torch casts loaded tensors to the parameters' type and changes their memory layout, so the
        # saved ones replace them.
        inner = getattr(self.optimizer, "_base_optimizer", self.optimizer)
        for group, own in zip(saved["param_groups"], inner.param_groups, strict=True):
            for index, parameter in zip(group["params"], own["params"], strict=True):
                if index in saved["state"]:
                    inner.state[parameter] = saved["state"][index]

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device


def read_position(path: Path) -> Position:
    """Returns the position in a checkpoint file; raises RunError if damaged."""
    try:
        return msgspec.convert(_read_metadata(path)["position"], Position)
    except _DAMAGE as error:
        raise RunError(f"The checkpoint {path} cannot be resumed: {error}.") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors to a safetensors file, atomically, with a checksum where `metadata` is empty.

    safetensors writes several keys of metadata in random order, so a file has only one.

    Raises:
        StorageError: The file cannot be written.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = metadata or {CHECKSUM_KEY: checksum_of(contiguous)}
    with replacing(path) as part:
        try:
            save_file(_unshared(contiguous), part, metadata=metadata)
        except SafetensorError as error:
            # A full disk: safetensors' error is no OSError, but has the number of one.
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error


def remove_partial_files(folder: Path) -> None:
    """Deletes partial files of killed processes."""
    for file in folder.glob(".*.part"):
        file.unlink(missing_ok=True)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, Any] = parse_json(file.metadata()["training"])
    return metadata


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors that share memory with an earlier one, which safetensors refuses."""
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        address = value.data_ptr()
        result[name] = value.clone() if address in seen and value.numel() else value
        seen.add(address)
    return result
