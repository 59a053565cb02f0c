"""Lets torch compile a network where a person asks for it."""

from __future__ import annotations

import torch
from torch import nn

from finetune.config import MachineConfig
from finetune.training.events import Listener, Note


def prepare_speed(module: nn.Module, config: MachineConfig, *, listen: Listener) -> bool:
    """Compiles a network in place if `config` asks for it; returns whether that was done.

    In place, so that its tensors keep their names: a checkpoint opens with or without. Where there
    is no compiler the network goes on as it is, and the listener is told why.
    """
    if not config.compile:
        return False
    reason = missing_compiler(next(module.parameters()).device)
    if reason is not None:
        listen(Note(text=f"--compile: torch cannot compile here ({reason}); going on without."))
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
