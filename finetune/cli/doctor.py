"""``finetune doctor``: facts about this installation for a bug report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import Json, Quiet, output
from finetune.formatting import count

if TYPE_CHECKING:
    from finetune.diagnostics.diagnosis import Diagnosis


def doctor(
    self_test: Annotated[
        bool,
        typer.Option("--self-test/--no-self-test", help="Train and predict on drawn photos."),
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check this installation, with a short self-test.

    The output has no paths and no names of photos, so it can be pasted into a bug report. The exit
    code is 1 if the self-test fails.
    """
    output.json, output.quiet = json, quiet
    from finetune.diagnostics.diagnosis import diagnose
    from finetune.diagnostics.self_test import LIMIT_SECONDS

    if self_test:
        output.info(f"Training on a few drawn photos; {LIMIT_SECONDS:.0f} seconds at most ...")
    found = diagnose(self_test=self_test)
    output.document(asdict(found))
    for line in _lines(found):
        output.text(line)
    if found.torch is None or (found.self_test is not None and found.self_test.error is not None):
        raise typer.Exit(1)


def _lines(found: Diagnosis) -> Iterable[str]:
    machine, torch, tested = found.machine, found.torch, found.self_test
    disks = ", ".join(f"{_gb(size)} ({name})" for name, size in machine.free_disk_bytes.items())
    rows = {
        "finetune": found.version,
        "Python": found.python,
        "System": machine.system,
        "Devices": ", ".join(torch.devices) if torch else "none: torch cannot be loaded",
        "Cores": f"{machine.cores}" + (f", {torch.threads} threads in torch" if torch else ""),
        "Memory": f"{_gb(machine.memory_bytes)}, {_gb(machine.free_memory_bytes)} free",
        "Free disk": disks,
        "Extras": _those(found.extras),
        "Fonts": _those(found.fonts),
        "Variables": ", ".join(f"{k}={v}" for k, v in found.environment.items()) or "none",
        "Weights": ", ".join(f"{w.model} ({w.place})" for w in found.weights) or "none",
        "Packages": ", ".join(f"{k} {v or 'MISSING'}" for k, v in found.packages.items()),
    }
    yield from (f"{name:<10} {value}" for name, value in rows.items())
    for cache in found.caches:
        yield f"{'Cache':<10} {cache.name}: {count(cache.files, 'file')}, {_mb(cache.size_bytes)}"
    if tested is not None:
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in tested.seconds.items())
        outcome = (
            "failed after" if tested.error else "stopped after" if tested.stopped else "passed"
        )
        yield f"{'Self-test':<10} {outcome}: {steps or 'nothing'}"
    yield ""
    for problem in found.problems:
        yield f"PROBLEM    {problem}"
    if not found.problems:
        yield "No problem found."


def _those(present: dict[str, bool]) -> str:
    return ", ".join(name for name, there in present.items() if there) or "none"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
