from __future__ import annotations

import resource
import sys

import pytest
import torch
from torch import nn

from finetune.config import MachineConfig
from finetune.training import device as compiling
from finetune.training.device import Memory, memory_in_use, missing_compiler, prepare_speed
from finetune.training.events import Note


def test_nothing_is_compiled_unasked() -> None:
    module = nn.Linear(2, 2)
    assert not prepare_speed(module, MachineConfig(), callback=lambda event: None)
    assert module._compiled_call_impl is None


def test_where_there_is_no_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        def call(*args: object) -> None:
            raise RuntimeError("\nFailed to find C compiler. Please set CC:\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    said: list[object] = []
    module = nn.Linear(2, 2)
    assert not prepare_speed(module, MachineConfig(compile=True), callback=said.append)
    assert said == [
        Note(
            text="--compile: torch cannot compile here (Failed to find C compiler. Please set CC); "
            "training without it."
        )
    ]


def test_a_compiled_network_keeps_the_names_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: None)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    names = list(module.state_dict())
    assert prepare_speed(module, MachineConfig(compile=True), callback=lambda event: None)
    assert list(module.state_dict()) == names
    assert module._compiled_call_impl is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_network_answers_like_the_plain_one() -> None:
    device = torch.device("cuda")
    assert missing_compiler(device) is None
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(device)
    inputs = torch.randn(5, 3, device=device)
    wanted = module(inputs)
    prepare_speed(module, MachineConfig(compile=True), callback=lambda event: None)
    assert torch.allclose(module(inputs), wanted, atol=1e-5)


def test_the_resident_set_is_no_more_than_its_peak() -> None:
    used = memory_in_use()
    if used.where == "GPU":
        pytest.skip("a CUDA device is in use")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert 10e6 < used.used_bytes <= peak * 1.05


def test_memory_of_the_gpu_counts_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3_210_000_000)
    assert str(memory_in_use()) == "3.2 GB GPU"
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    assert memory_in_use().where == "RAM"


def test_small_amounts_are_megabytes() -> None:
    assert str(Memory(where="RAM", used_bytes=412_300_000)) == "412 MB RAM"
    assert str(Memory(where="RAM", used_bytes=960_000_000)) == "1.0 GB RAM"
