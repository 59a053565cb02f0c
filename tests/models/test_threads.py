from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune.models.threads import cpu_threads, threads_for_products

ROOT = Path(__file__).parents[2]


def test_threads_are_those_of_the_block_alone() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ValueError, match="broken"), cpu_threads(before + 1):
        raise ValueError("broken")
    with cpu_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_a_head_on_few_photos_has_one_thread() -> None:
    assert threads_for_products(168, 168, 12) == 1
    assert threads_for_products(20_000, 1280, 100) is None


@pytest.mark.parametrize(
    ("code", "own", "expected"),
    [
        ("import finetune", None, "PASSIVE"),
        ("import finetune", "ACTIVE", "ACTIVE"),
        # Too late: OpenMP has read it.
        ("import sys; sys.modules['torch'] = sys; import finetune", None, "None"),
    ],
)
def test_threads_wait_passively(code: str, own: str | None, expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(ROOT), **({"OMP_WAIT_POLICY": own} if own else {})}
    code += "; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected
