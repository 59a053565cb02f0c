from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from finetune.malloc import USER_VARIABLES

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)

PAGES_OF_A_BLOCK = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0

SCRIPT = """
import json, resource, sys
import numpy as np
import psutil
from finetune.malloc import release_memory, keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def block():
    np.ones(64 * 2**20, np.uint8)

block()
before = faults()
for _ in range(4):
    block()
taken = faults() - before
resident = psutil.Process().memory_info().rss
release_memory()
freed = resident - psutil.Process().memory_info().rss
print(json.dumps({"kept": kept, "faults": taken, "freed": freed}))
"""


def in_a_process(how: str, **variables: str) -> dict[str, Any]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(USER_VARIABLES)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        check=True,
        capture_output=True,
        text=True,
        env=own | variables,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_blocks_come_back_without_a_page_fault_and_go_when_they_are_given_back() -> None:
    kept = in_a_process("keep")
    assert kept["kept"] is True
    assert kept["faults"] < PAGES_OF_A_BLOCK / 10
    assert kept["freed"] > 50e6


def test_without_it_each_block_costs_page_faults() -> None:
    # Fewer than its pages where the kernel hands out large ones.
    assert in_a_process("own")["faults"] > 100


@pytest.mark.parametrize(
    "variables", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}]
)
def test_settings_of_the_user_are_not_changed(variables: dict[str, str]) -> None:
    assert in_a_process("keep", **variables)["kept"] is False
