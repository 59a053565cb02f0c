"""All that a training is at one moment: trained, saved and resumed as one object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.errors import RunError
from finetune.files import replacing


@dataclass
class Position:
    """Where in the training a state is.

    Attributes:
        epoch: Epochs that are done.
        step: Steps that are done in the epoch under way.
        best_accuracy: Best validation accuracy so far, -1 before the first.
        best_loss: Validation loss of that epoch.
        best_epoch: That epoch, from 1; 0 before the first.
        seconds: Time that the training has taken, over all its parts.
    """

    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    seconds: float = 0.0


@dataclass
class TrainState:
    """What trains, its optimizer, and how far it has come.

    Attributes:
        module: What trains: the full network, or a head on features.
        optimizer: Over the module's parameters.
        running: ``(3,) float64``: loss, right answers and photos summed over the epoch so far.
        position: Where it is.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    running: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    position: Position = field(default_factory=Position)

    def save(self, path: Path) -> None:
        """Writes the state to one file that is whole or not there.

        Raises:
            StorageError: The disk is full; the checkpoint before it is intact.
        """
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer.{index}.{name}"] = value
        tensors["running"] = self.running
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {"position": json.dumps(asdict(self.position))}
        with replacing(path) as part:
            save_file(_unshared(whole), part, metadata=metadata)

    def load(self, path: Path) -> None:
        """Puts back what `save` wrote, to the last bit.

        Raises:
            RunError: The file is damaged or of another training.
        """
        try:
            with safe_open(path, framework="pt") as file:
                position = json.loads(file.metadata()["position"])
            tensors = load_file(path)
            self.module.load_state_dict(_part(tensors, "module."))
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _part(tensors, "optimizer.").items():
                index, _, key = name.partition(".")
                moments.setdefault(int(index), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise RunError(f"The checkpoint {path} cannot be resumed: {error}.") from error
        self.running = tensors["running"].to(self.running.device)
        self.position = Position(**position)
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random_cuda"])


def read_position(path: Path) -> Position:
    """Returns how far the training of a checkpoint file had come; raises RunError if damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return Position(**json.loads(file.metadata()["position"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"The checkpoint {path} cannot be resumed: {error}.") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors to a safetensors file that is whole or not there; raises StorageError."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as part:
        save_file(_unshared(whole), part, metadata=metadata)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors that share memory with an earlier one: safetensors takes each on its own."""
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        address = value.data_ptr()
        result[name] = value.clone() if address in seen and value.numel() else value
        seen.add(address)
    return result
