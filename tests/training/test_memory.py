from __future__ import annotations

import resource
import sys

import pytest
import torch

from finetune.training.device import Memory, memory_in_use


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
