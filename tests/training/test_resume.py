from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from finetune import train
from finetune.config_io import resolve
from finetune.training.train import RunResult, resume

ROOT = Path(__file__).resolve().parents[2]


def test_killed_trainings_of_every_mode_resume_to_the_same_bytes(
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # One kill a run, at places that the seed decides: in the middle of writing a checkpoint,
    # before a step, before an update of the average. The script's own 20 kills are its benchmark.
    found = run_child(
        f"import runpy; runpy.run_path({str(ROOT / 'benchmarks' / 'kills.py')!r}, "
        "run_name='__main__')",
        *("--kills=3", "--a-run=1", "--points", "--photos=8", "--seed=3"),
    )
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line for line in found.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert all(row.endswith("| same bytes |") for row in rows), rows
    assert {row.split("|")[1].split(",")[0].strip() for row in rows} == {
        "head",
        "full",
        "gradual",
    }
    assert "3 kills, 3 runs, 0 with other bytes" in found.stdout


Settings = dict[str, object]


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def run_of(photos: Path, runs: Path, flags: Settings, name: str = "r") -> RunResult:
    return train(photos, resolve({}, flags), run=name, runs=runs)


CHILD = """
import json, os, signal, sys
from pathlib import Path
from finetune import train
from finetune.tasks import losses
from finetune.config_io import resolve
photos, runs, flags, sign, last = sys.argv[1:]
original, steps = losses.binary_cross_entropy, [0]
def counted(*args, **keywords):
    steps[0] += 1
    if steps[0] == int(last):
        os.kill(os.getpid(), int(sign))
    return original(*args, **keywords)
losses.binary_cross_entropy = counted
train(Path(photos), resolve({}, json.loads(flags)), run="killed", runs=Path(runs))
"""


def test_a_killed_run_resumes_to_the_same_bytes(
    several_folders: Path,
    tmp_path: Path,
    several: Settings,
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    flags = {**several, "mode": "full", "balance": "sampling", "mixup": 0.7}
    whole = run_of(several_folders, tmp_path, flags, "whole")
    child = run_child(
        CHILD, str(several_folders), str(tmp_path), json.dumps(flags), str(int(signal.SIGKILL)), "9"
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert not json.loads((tmp_path / "killed" / "config.json").read_text())["finished"]
    result = resume(tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert result.metrics == whole.metrics
