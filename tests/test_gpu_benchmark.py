"""The script that a machine with a GPU runs, in small on the CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"

COMPARED = 8
MEASURED = 11


def test_it_compares_and_measures(
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['gpu.py', '--device', 'cpu', '--small']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = run_child(code)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    verdicts = [row[-1].strip(" |") for row in rows if len(row) == 4]
    # On one device nothing may differ.
    assert verdicts == ["holds"] + ["yes"] * COMPARED
    assert {row[1] for row in rows if len(row) == 4} == {"difference", "0.0e+00"}
    measured = [row for row in rows if len(row) == 3][1:]
    assert len(measured) == MEASURED
    assert all(float(row[1].replace(",", "")) > 0 for row in measured)
