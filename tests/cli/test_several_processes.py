"""Passes over photos by two processes give what one gives."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_COMMANDS = """
import json, sys
from finetune.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["finetune", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
    print("\\0")
import atexit
atexit._run_exitfuncs()
"""

RunChildren = Callable[..., list[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("home")
    train_tiny(root)
    # Copies of the photos, of other bytes: 48 photos are two batches.
    for number, file in enumerate(sorted((root / "photos").rglob("*.png")) * 3):
        copy = root / "many" / file.parent.name / f"{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes() + bytes([number]))
    return root


def commands(home: Path, name: str, weights: Path) -> list[list[str]]:
    """What is run; each time with a catalog, caches and results of its own."""
    photos = shutil.copytree(home / "many", home / name / "photos")
    run = next((home / "runs").iterdir())
    seed = str(sorted(photos.rglob("*.png"))[0])
    model = ["--model", "test_resnet", "--weights", str(weights)]
    return [
        ["evaluate", str(run), str(photos), "--output", str(home / name / "out"), "--json"],
        ["similar", seed, "--from", str(photos), *model, "--json"],
        ["crop", str(photos), *model, "--json"],
    ]


def results(stdout: str) -> list[Any]:
    return [json.loads(part) for part in stdout.split("\0\n") if part.strip()]


def test_evaluate_similar_and_crop_are_shared(
    home: Path, tiny_weights: Path, run_children: RunChildren
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    (alone,) = run_children(_COMMANDS, [json.dumps(commands(home, "one", tiny_weights))])
    assert alone.returncode == 0, alone.stderr
    given = commands(home, "two", tiny_weights)
    two = run_children(
        _COMMANDS,
        *([json.dumps(given)] for _ in (0, 1)),
        environments=[shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")],
    )
    assert [one.returncode for one in two] == [0, 0], [one.stderr for one in two]
    assert two[1].stdout == "\0\n" * 3
    expected = results(alone.stdout.replace(str(home / "one"), str(home / "two")))
    assert len(expected) == 3
    assert results(two[0].stdout) == expected
    files = sorted(file.name for file in (home / "one" / "out").iterdir())
    assert {"metrics.json", "predictions.csv"} <= set(files)
    for file in files:
        one, other = ((home / name / "out" / file).read_bytes() for name in ("one", "two"))
        assert one == other, file
