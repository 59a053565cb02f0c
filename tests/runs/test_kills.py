from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_killed_trainings_of_every_mode_resume_to_the_same_bytes() -> None:
    # One kill a run, at places that the seed decides: in the middle of writing a checkpoint,
    # before a step, before an update of the average. The script's own 20 kills are its benchmark.
    found = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "kills.py"),
            "--kills=4",
            "--a-run=1",
            "--points",
            "--seed=3",
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line for line in found.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert all(row.endswith("| same bytes |") for row in rows), rows
    assert {row.split("|")[1].split(",")[0].strip() for row in rows} == {
        "head on features",
        "head",
        "full",
        "gradual",
    }
    assert "4 kills, 4 runs, 0 with other bytes" in found.stdout
