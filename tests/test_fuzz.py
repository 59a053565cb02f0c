"""A few examples of each fuzz target; scripts/fuzz runs as many as there is time for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = {
    "run": 15,
    "config": 30,
    "catalog": 3,
    "table": 40,
    "dataset": 16,
    "pipeline": 20,
    "photo": 60,
    "cache": 10,
    "upload": 15,
    "disk": 2,
    "model": 1,
}
FOUND = {"catalog": (185, 319, 635), "config": (8434, 11486), "dataset": (9913,), "run": (183, 514)}
"""Examples that raised other errors before."""

pytest.importorskip("resource", reason="Windows has no limits of resources")


def load() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parent / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load()


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = fuzz.Fuzzer(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def test_every_target_has_examples(fuzzer: Any) -> None:
    assert set(fuzzer.targets()) == set(EXAMPLES)


@pytest.mark.parametrize("target", EXAMPLES)
def test_damaged_input_is_a_result_or_one_line(target: str, fuzzer: Any) -> None:
    # No timed assertion: scripts/fuzz has one.
    findings = [
        f"--seed {number}\n{found}"
        for number in (*range(EXAMPLES[target]), *FOUND.get(target, ()))
        if (found := fuzz.example(fuzzer, target, number, seconds=60.0)) is not None
    ]
    assert findings == []
