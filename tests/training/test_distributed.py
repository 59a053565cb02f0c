"""What several processes agree on, tried with two of them over gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.training.distributed import World, processes

_SCRIPT = """
import json, sys
import numpy as np, torch
from torch import distributed
from finetune.training.distributed import processes

distributed.init_process_group("gloo")
us = processes()
said = {"rank": us.rank, "count": us.count, "main": us.is_main}
said["share"] = us.shard(np.arange(7)).tolist()
said["gathered"] = us.gather(np.arange(us.rank + 1) + 10 * us.rank).tolist()
said["agreed"] = us.broadcast({"rank": us.rank})
cpu = torch.device("cpu")
said["any"] = [us.any_process(us.rank == 1, cpu), us.any_process(False, cpu)]
said["total"] = us.total(torch.tensor([1.0, us.rank])).tolist()

order = sys.argv[1] + "/order"
with us.main_first():
    with open(order, "a") as file:
        file.write(str(us.rank))
us.barrier()
said["order"] = open(order).read()

torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
model[0].bias.requires_grad_(False)
x = torch.randn(7, 5, dtype=torch.float64)
y = torch.randint(0, 3, (7,))
mine = torch.from_numpy(us.shard(np.arange(7)))
loss = torch.nn.functional.cross_entropy(model(x[mine]), y[mine])
(loss * len(mine) / 7).backward()
us.average_gradients(model.parameters())
said["gradients"] = [p.grad.flatten().tolist() for p in model.parameters() if p.grad is not None]
said["grown"] = model[0].bias.grad is None
with open(f"{sys.argv[1]}/{us.rank}.json", "w") as file:
    json.dump(said, file)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(_SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", "2", str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_each_process_knows_its_place(said: list[dict[str, Any]]) -> None:
    assert [(one["rank"], one["count"], one["main"]) for one in said] == [
        (0, 2, True),
        (1, 2, False),
    ]


def test_shares_are_every_item_once(said: list[dict[str, Any]]) -> None:
    assert said[0]["share"] + said[1]["share"] == list(range(7))


def test_rows_come_in_the_order_of_the_ranks(said: list[dict[str, Any]]) -> None:
    assert [one["gathered"] for one in said] == [[0, 10, 11]] * 2


def test_the_main_process_decides(said: list[dict[str, Any]]) -> None:
    assert [one["agreed"] for one in said] == [{"rank": 0}] * 2


def test_one_process_that_stops_stops_all(said: list[dict[str, Any]]) -> None:
    assert [one["any"] for one in said] == [[True, False]] * 2


def test_sums_are_over_all(said: list[dict[str, Any]]) -> None:
    assert [one["total"] for one in said] == [[2.0, 1.0]] * 2


def test_the_main_process_goes_first(said: list[dict[str, Any]]) -> None:
    assert [one["order"] for one in said] == ["01"] * 2


def test_gradients_are_those_of_the_whole_step(said: list[dict[str, Any]]) -> None:
    torch.manual_seed(3)
    first, second = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second).double()
    first.bias.requires_grad_(False)
    x = torch.randn(7, 5, dtype=torch.float64)
    y = torch.randint(0, 3, (7,))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    whole = [p.grad.flatten().numpy() for p in model.parameters() if p.grad is not None]
    for one in said:
        assert one["grown"]  # what does not train gets no gradient
        for found, expected in zip(one["gradients"], whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_process_alone_needs_nobody(tmp_path: Path) -> None:
    alone = processes()
    assert alone == World(rank=0, count=1)
    assert alone.shard(np.arange(3)).tolist() == [0, 1, 2]
    assert alone.gather(np.arange(3)).tolist() == [0, 1, 2]
    assert alone.broadcast("x") == "x"
    assert alone.any_process(True, torch.device("cpu"))
    with alone.main_first():
        alone.barrier()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    alone.average_gradients([parameter])
    assert parameter.grad.tolist() == [3.0, 3.0]
