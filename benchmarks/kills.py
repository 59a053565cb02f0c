"""Kills trainings at random and resumes them: the weights must equal those of an undisturbed run.

    python benchmarks/kills.py [--kills 20] [--a-run 2] [--seed 0] [--points]

Small trainings on drawn photos, in head mode (on augmented photos), full and gradual mode, with
EMA, mixup, gradient
accumulation, clipping and a soup. Each is killed twice, by SIGKILL or SIGTERM, and resumed to its
end. Half of the kills are sent from outside at a random time; the others (all with --points) occur
inside, at a random point where state changes: before a step, before an update of the average,
before a validation, or while a checkpoint is written. Prints a row per kill; the exit code is 1 if
a byte of the weights differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - so that not every child has to import it
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from finetune.config_io import resolve
from finetune.training import checkpoints, loop
from finetune.training.averaging import WeightAverage
from finetune.training.train import resume, train

MODEL, SIZE = "test_resnet", 48

SETTINGS: dict[str, dict[str, Any]] = {
    "full, EMA, mixup, accumulate": {
        "mode": "full",
        "ema": 0.9,
        "mixup": 1.0,
        "accumulate": 2,
        "clip_norm": 1.0,
        "optimizer": "lamb",
        "epochs": 5,
    },
    "gradual, EMA, mixup": {
        "mode": "gradual",
        "ema": 0.9,
        "mixup": 0.8,
        "layer_decay": 0.8,
        "optimizer": "muon",
        "progressive_size": 32,
        "drop_path": 0.1,
        "soup": 3,
        "epochs": 5,
    },
    "head, EMA, mixup": {"mode": "head", "ema": 0.9, "mixup": 1.0, "epochs": 4},
    "full, EMA, mixup": {"mode": "full", "ema": 0.95, "mixup": 0.5, "cutmix": 0.3, "epochs": 4},
}

SIGNALS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Kill:
    """A kill, with the position of the training and the result."""

    settings: str
    signal: str
    at: str


def main() -> None:
    """Kills and resumes trainings; prints a row per kill."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--a-run", type=int, default=2, help="kills of one run")
    parser.add_argument("--photos", type=int, default=16, help="photos a label")
    parser.add_argument("--points", action="store_true", help="kill from inside only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        photos, weights = (
            draw(folder / "photos", given.photos),
            make_weights(folder / "tiny.safetensors"),
        )
        kills: list[Kill] = []
        wrong = 0
        names = list(SETTINGS)
        number = 0
        whole: dict[str, Whole] = {}
        while len(kills) < given.kills:
            named = names[number % len(names)]
            number += 1
            flags = {
                "model": MODEL,
                "weights": str(weights),
                "size": SIZE,
                "device": "cpu",
                "batch_size": 8,
                "checkpoint_steps": 2,
                **SETTINGS[named],
            }
            here = Place(folder, photos, flags)
            if named not in whole:
                whole[named] = run_whole(here, f"whole-{number}")
            found = kill_and_resume(here, named, f"killed-{number}", whole[named], rng, given)
            kills += found[: given.kills - len(kills)]
            same = digests(folder / f"killed-{number}") == whole[named].digests
            wrong += not same
            for kill in found:
                print(
                    f"| {kill.settings} | {kill.signal} | {kill.at} | {verdict(same)} |", flush=True
                )
    print(f"\n{len(kills)} kills, {number} runs, {wrong} with other bytes")
    sys.exit(1 if wrong else 0)


def verdict(same: bool) -> str:
    """Returns the last cell of a row."""
    return "same bytes" if same else "OTHER BYTES"


@dataclass(frozen=True)
class Place:
    """Folder and settings of the trainings."""

    folder: Path
    photos: Path
    flags: dict[str, Any]


@dataclass(frozen=True)
class Whole:
    """A run that was not killed."""

    digests: dict[str, str]
    points: int
    seconds: float


def run_whole(place: Place, name: str) -> Whole:
    """Returns an undisturbed run's digests, its duration and its number of points."""
    marks = place.folder / f"{name}.marks"
    code = in_child(lambda: train_counted(place, name, marks=marks))
    if code != 0:
        raise SystemExit(f"The undisturbed run ended with {code}.")
    first, last, points = marks.read_text().split()
    return Whole(digests(place.folder / name), int(points), float(last) - float(first))


def kill_and_resume(
    place: Place, named: str, name: str, whole: Whole, rng: random.Random, given: Any
) -> list[Kill]:
    """Kills a run twice, resumes it to its end, and returns the kills."""
    kills = []
    run = place.folder / name
    for attempt in range(40):
        sign = rng.choice(SIGNALS)
        inside = given.points or rng.random() < 0.5
        point = rng.randint(1, max(1, whole.points - 1)) if inside else None
        wait = None if inside else rng.uniform(0.0, whole.seconds)
        marks = place.folder / f"{name}-{attempt}.marks"
        again = (run / "config.json").is_file()

        def work(
            again: bool = again, point: int | None = point, sign: int = sign, marks: Path = marks
        ) -> None:
            train_counted(place, name, again=again, point=point, sign=sign, marks=marks)

        code = in_child(work, marks=marks, wait=wait, sign=sign)
        if code not in (0, -signal.SIGKILL, -signal.SIGTERM):
            raise SystemExit(f"{named}: a killed training ended with {code}.")
        if json.loads((run / "config.json").read_text())["finished"]:
            # It was quicker than the signal: done, or to be done over for want of a kill.
            if len(kills) == given.a_run:
                return kills
            for file in sorted(run.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            run.rmdir()
            kills.clear()
            continue
        position = (
            checkpoints.read_position(run / "checkpoints" / "last.safetensors")
            if (run / "checkpoints" / "last.safetensors").is_file()
            else checkpoints.Position()
        )
        how = f"point {point} of {whole.points}" if inside else f"{wait:.2f} s in"
        kills.append(
            Kill(
                named,
                signal.Signals(sign).name,
                f"{how}; resumed from epoch {position.epoch}, step {position.step}",
            )
        )
        if len(kills) == given.a_run:
            code = in_child(lambda: train_counted(place, name, again=True))
            if code != 0:
                raise SystemExit(f"{named}: the resumed training ended with {code}.")
            return kills
    raise SystemExit(f"{named}: no kill came in time in 40 attempts.")


def train_counted(
    place: Place,
    name: str,
    *,
    again: bool = False,
    point: int | None = None,
    sign: int = signal.SIGKILL,
    marks: Path | None = None,
) -> None:
    """Trains or resumes, counts the points, and kills itself at one of them."""
    passed = [0]
    first = [0.0]

    def at_point(half: Callable[[], None] = lambda: None) -> None:
        passed[0] += 1
        if passed[0] == 1:
            first[0] = time.monotonic()
            if marks is not None:
                marks.write_text("begun")
        if passed[0] == point:
            half()
            os.kill(os.getpid(), sign)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            at_point()
            return function(*args, **keywords)

        return wrapped

    write = checkpoints.save_file

    def half_way(tensors: Any, path: Path, metadata: Any = None) -> None:
        write(tensors, path, metadata=metadata)
        whole = path.read_bytes()

        def half() -> None:
            if sign == signal.SIGKILL:
                path.write_bytes(whole[: len(whole) // 2])

        at_point(half)

    loop.set_lr = before(loop.set_lr)
    loop.score_outputs = before(loop.score_outputs)
    WeightAverage.update = before(WeightAverage.update)  # type: ignore[method-assign]
    run = place.folder / name
    if again:
        checkpoints.save_file = half_way
        resume(run)
    else:
        # The first file is the network as it starts, before there is a run.
        save = checkpoints.TrainState.save

        def saved(self: checkpoints.TrainState, path: Path) -> None:
            checkpoints.save_file = half_way
            try:
                save(self, path)
            finally:
                checkpoints.save_file = write

        checkpoints.TrainState.save = saved  # type: ignore[method-assign]
        train(place.photos, resolve({}, place.flags), run=str(run))
    if marks is not None:
        marks.write_text(f"{first[0]} {time.monotonic()} {passed[0]}")


def in_child(
    work: Callable[[], None],
    *,
    marks: Path | None = None,
    wait: float | None = None,
    sign: int = signal.SIGKILL,
) -> int:
    """Runs `work` in a child process; returns its exit code, negative for a signal.

    With `wait`, the process gets the signal that many seconds after its first step.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may come back into the parent's frames
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if wait is not None and marks is not None:
        while not marks.is_file():
            time.sleep(0.002)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
        time.sleep(wait)
        os.kill(child, sign)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def digests(run: Path) -> dict[str, str]:
    """Returns the digests of the files that must not differ: weights and metrics."""
    names = ("model.safetensors", "metrics.json", "predictions.csv")
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def draw(root: Path, photos: int) -> Path:
    """Draws photos of three colors on noise."""
    rng = np.random.default_rng(0)
    for label, color in {
        "red": (200, 60, 50),
        "green": (60, 170, 70),
        "blue": (60, 70, 200),
    }.items():
        (root / label).mkdir(parents=True)
        for number in range(photos):
            noise = rng.integers(-70, 70, (60, 80, 3))
            pixels = np.clip(np.array(color) + rng.integers(-60, 60, 3) + noise, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.jpg")
    return root


def make_weights(path: Path) -> Path:
    """Writes random weights with a head of 1,000 outputs, as pretrained ones have."""
    torch.manual_seed(7)
    save_file(timm.create_model(MODEL).state_dict(), path)
    return path


if __name__ == "__main__":
    main()
