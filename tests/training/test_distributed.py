"""Distributed training, by two processes over gloo on the CPU."""

from __future__ import annotations

import csv
import functools
import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.experiments.ablate import ablate
from finetune.experiments.cross_validate import cross_validate
from finetune.experiments.lr_find import find_lr
from finetune.experiments.tune.search import tune
from finetune.training.distributed import World, processes
from finetune.training.resolve import check_shares
from finetune.training.train import train

_SCRIPT = """
import json, sys
import numpy as np, torch
from torch import distributed
from finetune.training.distributed import end_processes, processes

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
"""

_END = """
import atexit
# As at the end of a process of its own; a forked one skips it.
atexit._run_exitfuncs()
print("open:", distributed.is_initialized())
end_processes()
"""


# A catalog and caches of its own: it must not find the work of the one process done.
_TRAININGS = """
import sys
from finetune.__main__ import main
for arguments in settings:
    sys.argv = ["finetune", "train", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


@dataclass(frozen=True, kw_only=True)
class TwoProcesses:
    """Findings of two processes, and the runs that they trained together and that one did."""

    found: list[dict[str, Any]]
    full: tuple[Path, Path]
    head: tuple[Path, Path]


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
    run_children: Callable[..., list[subprocess.CompletedProcess[str]]],
) -> TwoProcesses:
    folder = tmp_path_factory.mktemp("processes")
    photos = folder / "photos"
    for index, (label, count) in enumerate({"disc": 19, "bar": 18, "cross": 17}.items()):
        (photos / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(photos / label / f"{number:03d}.jpg", quality=92)
    trainings = {"full": FULL, "head": HEAD | {"weights": str(tiny_weights)}}
    arguments = [
        [
            str(photos),
            *("--name", str(folder / f"{name}-two"), "--catalog", str(folder / f"{name}.sqlite3")),
            *(t for key, value in settings.items() for t in (_flag(key), str(value))),
        ]
        for name, settings in trainings.items()
    ]
    script = f"{_SCRIPT}\nsettings = {arguments!r}\n{_TRAININGS}\n{_END}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # The variables that torchrun and accelerate launch set.
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = run_children(
        script,
        *([str(folder)] for _ in range(2)),
        environments=[shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")],
    )
    assert [one.returncode for one in done] == [0, 0], [one.stderr[:3000] for one in done]
    assert all(one.stdout.endswith("open: False\n") for one in done)
    # Only the main process prints.
    assert [one.stdout.count("the model is in") for one in done] == [2, 0]
    runs = {
        name: (
            train(photos, resolve({}, settings), run=str(folder / f"{name}-one")).run.path,
            folder / f"{name}-two",
        )
        for name, settings in trainings.items()
    }
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return TwoProcesses(found=found, full=runs["full"], head=runs["head"])


@pytest.fixture
def said(both: TwoProcesses) -> list[dict[str, Any]]:
    return both.found


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
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
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


FULL: dict[str, Any] = {
    "mode": "full",
    "model": "test_vit",  # layer norms: batch norms see their process's photos alone on the CPU
    "weights": "none",
    "size": 64,
    "batch_size": 16,
    "accumulate": 4,
    "epochs": 12,
    "ema": 0.9,
    "augment": "light",
    "clip_norm": 5.0,
    "lr": 0.003,
}
HEAD: dict[str, Any] = {"mode": "head", "model": "test_resnet", "size": 48, "validation": 0.15}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def read_metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def test_two_processes_make_the_steps_of_one(both: TwoProcesses) -> None:
    one, two = both.full
    # One step an epoch, so that an epoch's loss is that of a step over all photos.
    losses = [[epoch["train_loss"] for epoch in read_log(run)] for run in (one, two)]
    assert len(losses[0]) == 12
    assert losses[0][0] - losses[0][-1] > 0.01  # and it learns
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)
    first, second = (load_file(run / "model.safetensors") for run in (one, two))
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=0, atol=2e-3, err_msg=name)
    for part in ("validation", "test"):
        here, there = (read_metrics(run)[part] for run in (one, two))
        assert there["photos"] == here["photos"]
        assert there["top1"] == here["top1"]
    with (two / "predictions.csv").open(encoding="utf-8-sig") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths))
    assert len(paths) == sum(part["photos"] for part in read_metrics(two).values())


def test_two_processes_share_the_features_of_one_head(both: TwoProcesses) -> None:
    one, two = both.head
    # Batches of another size round features differently, and the solver ends a little elsewhere.
    shares = []
    for run in (one, two):
        with (run / "predictions.csv").open(encoding="utf-8-sig") as file:
            shares.append([float(row["probability"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(shares[1], shares[0], atol=5e-3)
    for part in ("validation", "test"):
        assert read_metrics(two)[part]["top1"] == read_metrics(one)[part]["top1"]


def test_a_batch_that_leaves_a_process_without_a_photo_is_refused() -> None:
    check_shares(World(count=2), 40, batch_size=2, accumulate=1)
    with pytest.raises(ConfigError) as caught:
        check_shares(World(count=3), 40, batch_size=2, accumulate=1)
    assert str(caught.value) == (
        "--batch-size 2: a batch of 2 photos is too small for 3 processes, since each trains on a "
        "share of it. Start fewer processes."
    )


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (cross_validate, "--folds"),
        (tune, "finetune tune"),
        (functools.partial(ablate, values=["none"]), "finetune ablate"),
        (find_lr, "finetune lr-find"),
    ],
)
def test_what_cannot_be_shared_refuses_several_processes(
    begin: Callable[..., Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        begin(tmp_path, resolve({}, {}))
    assert str(caught.value) == (
        f"{what} runs in one process, and 2 were started. Leave out torchrun or accelerate launch; "
        "train, predict, evaluate, similar and crop share their work."
    )
    assert not (tmp_path / ".finetune").exists()
