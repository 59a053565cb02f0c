"""Mutates every field of every file of runs and opens each result in a process of its own.

    python benchmarks/hostile_runs.py [--examples 300] [--seed 0] [--folder DIR]

Four small runs are trained: a head on features of the packaged network, a full network, a head with
several labels per photo, and a full network whose training was killed. Each field of their JSON
files, each column of their tables and each part of their safetensors headers is replaced by values
of another type, out of range, not finite, huge, nested or not to be printed, or is removed. Each
mutated run is predicted with, reported on, evaluated, exported, compared, watched, resumed, and
continued from, in a fork of a process that has imported everything, with connections forbidden.
Prints what was neither a result nor one line, what took 2 seconds or 1 GB more than the intact run,
and each answer that differs from the intact run's.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import resource
import shutil
import socket
import struct
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import finetune.prediction.export.timm  # so that no child has to import it
import finetune.prediction.predictor
import finetune.reporting.report  # noqa: F401
from finetune.cli import app
from finetune.cli.train import settings_of
from finetune.config_io import resolve
from finetune.errors import FinetuneError
from finetune.experiments.model_search import Candidate, ModelSearch
from finetune.runs.folder import RunFolder, open_run
from finetune.runs.follow import read_progress
from finetune.runs.model_card import model_card
from finetune.training.train import train
from finetune.training.warm_start import inherit, open_parent

TINY: dict[str, Any] = {
    "model": "simple_cnn",
    "weights": "none",
    "mode": "full",
    "epochs": 2,
    "size": 32,
}

SECONDS = 2.0
GROWTH_BYTES = 1_000_000_000
MISSING = object()


def nested(depth: int) -> Any:
    """Returns lists within lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "text": "x",
    "empty text": "",
    "zero": 0,
    "negative": -1,
    "huge integer": 10**40,
    "large integer": 10**9,
    "huge float": 1e308,
    "tiny float": 1e-300,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "list": [],
    "object": {},
    "nested": nested(150),
    "long list": [0.5] * 200_000,
    "long text": "a" * 200_000,
    "control characters": "\x1b[2J\x1b]0;x\x07\u202egpj",
    "NUL": "a\0b",
    "lone surrogate": "\ud800",
    "path": "../../../../etc/passwd",
    "address": "http://127.0.0.1:9/x.safetensors",
}
"""Values that replace a field, by name."""

CELLS: dict[str, str] = {
    "empty": "",
    "text": "x",
    "negative": "-1",
    "NaN": "nan",
    "infinity": "1e999",
    "long": "9" * 100_000,
    "control characters": "\x1b[2J\x07\u202e",
    "NUL": "a\0b",
    "formula": "=1+1",
    "path": "../../../../etc/passwd",
    "quote": '"',
    "address": "http://127.0.0.1:9/x.png",
}
"""Values that replace the cell of a table."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One change of one file."""

    run: Path
    file: str
    place: str
    value: str
    content: Callable[[], bytes]

    def __str__(self) -> str:
        return f"{self.run.name}/{self.file} {self.place}: {self.value}"


def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the path of every field; of a list, those of the first two items."""
    yield place
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:2])
    for key, item in items:
        yield from places(item, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Returns a copy of a document with another value at a place."""
    if not place:
        return None if new is MISSING else new
    key, *rest = place
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is MISSING:
        del copy[key]
    else:
        copy[key] = replaced(copy[key], tuple(rest), new)
    return copy


def json_mutations(run: Path, file: str) -> Iterator[Mutation]:
    """Yields the mutations of a JSON file, or of the first line of JSON lines."""
    first, _, rest = (
        (run / file)
        .read_text(encoding="utf-8")
        .partition("\n" if file.endswith(".jsonl") else "\0")
    )
    document = json.loads(first)

    def content(place: tuple[Any, ...], new: Any) -> bytes:
        text = json.dumps(replaced(document, place, new))
        return (text + ("\n" + rest if rest else "")).encode()

    for place in places(document):
        for name, new in VALUES.items():
            yield Mutation(
                run=run,
                file=file,
                place=".".join(map(str, place)) or "(all)",
                value=name,
                content=lambda place=place, new=new: content(place, new),  # type: ignore[misc]
            )


def table_mutations(run: Path, file: str) -> Iterator[Mutation]:
    """Yields the mutations of each column of a table: its name, and its first cell."""
    rows = list(csv.reader((run / file).read_text(encoding="utf-8-sig").splitlines()))

    def content(row: int, column: int, cell: str) -> bytes:
        changed = [list(cells) for cells in rows]
        changed[row][column] = cell
        text = io.StringIO()
        csv.writer(text).writerows(changed)
        return text.getvalue().encode()

    for row in range(min(2, len(rows))):
        for column, name in enumerate(rows[0]):
            for value, cell in CELLS.items():
                yield Mutation(
                    run=run,
                    file=file,
                    place=f"{name or '(first)'}, row {row}",
                    value=value,
                    content=lambda row=row, column=column, cell=cell: content(row, column, cell),  # type: ignore[misc]
                )


def tensor_mutations(run: Path, file: str) -> Iterator[Mutation]:
    """Yields the mutations of a safetensors file: of its header's fields, and of its numbers."""
    data = (run / file).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]

    def packed(changed: Any, body: bytes = tensors) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + body

    def mutation(place: str, value: str, content: Callable[[], bytes]) -> Mutation:
        return Mutation(run=run, file=file, place=place, value=value, content=content)

    values = {**VALUES, "huge shape": [10**9, 10**9], "other type": "F64", "swapped": [8, 0]}
    for name in (names[0], names[-1]):
        for field in ((), ("dtype",), ("shape",), ("shape", 0), ("data_offsets",)):
            if field == ("shape", 0) and not header[name]["shape"]:
                continue
            for value, new in values.items():
                place = (name, *field)
                yield mutation(
                    ".".join(map(str, place)),
                    value,
                    lambda place=place, new=new: packed(replaced(header, place, new)),  # type: ignore[misc]
                )
        start, end = header[name]["data_offsets"]
        for value, pattern in (
            ("NaN", b"\0\0\xc0\x7f"),
            ("infinity", b"\0\0\x80\x7f"),
            ("huge", b"\xff\xff\x7f\x7f"),
            ("noise", None),
        ):
            body = random.Random(7).randbytes(end - start)
            if pattern is not None:
                body = (pattern * (1 + (end - start) // 4))[: end - start]
            yield mutation(
                name,
                f"all {value}",
                lambda start=start, end=end, body=body: packed(  # type: ignore[misc]
                    header, tensors[:start] + body + tensors[end:]
                ),
            )
    for size in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        yield mutation("(all)", f"cut after {size} bytes", lambda size=size: data[:size])  # type: ignore[misc]
    for number in (0, 2**63, 10**9, 100_000_001):
        yield mutation(
            "header length",
            str(number),
            lambda number=number: struct.pack("<Q", number) + data[8:],  # type: ignore[misc]
        )
    yield mutation("(all)", "pickle", lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.")


def mutations(run: Path) -> list[Mutation]:
    """Returns all mutations of a run."""
    found: list[Mutation] = []
    for path in sorted(run.rglob("*")):
        file = str(path.relative_to(run))
        if path.suffix in (".json", ".jsonl"):
            found += json_mutations(run, file)
        elif path.suffix == ".csv":
            found += table_mutations(run, file)
        elif path.suffix == ".safetensors":
            found += tensor_mutations(run, file)
    return found


def spread(found: list[Mutation], most: int, rng: random.Random) -> list[Mutation]:
    """Returns a sample with equally many mutations of each file of each run, where it has them."""
    rng.shuffle(found)
    turns: Counter[tuple[Path, str]] = Counter()
    ranked = []
    for mutation in found:
        file = (mutation.run, mutation.file)
        ranked.append((turns[file], len(ranked), mutation))
        turns[file] += 1
    return [mutation for _, _, mutation in sorted(ranked, key=lambda item: item[:2])[:most]]


def draw_photos(folder: Path) -> None:
    """Draws 40 photos of discs and squares on noise."""
    rng = np.random.default_rng(0)
    for number in range(40):
        label = ("disc", "square")[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        image = noise.resize((96, 96), Image.Resampling.BICUBIC)
        x, y = rng.integers(10, 50, 2).tolist()
        draw = ImageDraw.Draw(image)
        if label == "disc":
            draw.ellipse((x, y, x + 35, y + 35), (220, 40, 40))
        else:
            draw.rectangle((x, y, x + 35, y + 35), (40, 60, 220))
        image.save(folder / label / f"{number}.png")


def train_runs(folder: Path) -> list[Path]:
    """Trains the three runs, one of them with the result of a search for a model."""
    photos, runs = folder / "photos", folder / "runs"
    if not photos.is_dir():
        draw_photos(photos)
        flags: dict[str, dict[str, Any]] = {
            "head": {"mode": "head", "size": 96},
            "full": TINY,
            "several": {"mode": "head", "size": 96, "multi_label": True},
        }
        for name, values in flags.items():
            train(photos, resolve({}, {**values, "device": "cpu"}), run=name, runs=runs)
        candidate = Candidate(
            model="efficientnet_lite2",
            size=224,
            accuracy=0.9,
            interval=(0.8, 0.95),
            log_loss=0.2,
            milliseconds=12.0,
            megabytes=20.0,
        )
        skipped = Candidate(model="resnet18", size=224, skipped="out of time")
        ModelSearch(
            config=resolve({}, {}), candidates=(candidate, skipped), chosen=0, best=0, photos=40
        ).write(RunFolder(runs / "head"))
        kill_training(photos, runs)
    return [runs / "head", runs / "full", runs / "several", runs / "killed"]


def kill_training(photos: Path, runs: Path) -> None:
    """Trains a run whose process ends before the last of four epochs."""
    child = os.fork()
    if child == 0:
        run = runs / "killed"

        def callback(event: object) -> None:
            if RunFolder(run).last_checkpoint.is_file() and list(RunFolder(run).read_log()):
                os._exit(0)

        config = resolve({}, {**TINY, "epochs": 4, "device": "cpu"})
        train(photos, config, run="killed", runs=runs, callback=callback)
        os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        raise AssertionError("the training was not killed")


def uses(run: Path, photos: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Returns what is done with a run, by name."""
    names = [str(photos / "disc/0.png"), str(photos / "square/1.png")]

    def command(*words: object) -> Callable[[], object]:
        def call() -> str:
            result = CliRunner().invoke(app, [str(word) for word in words])
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            if result.exit_code not in (0, 1):
                raise AssertionError(f"exit code {result.exit_code}: {result.output}")
            if result.exit_code == 1:
                one_line(result.stderr)
                raise FinetuneError("said")
            if any(mark in result.output for mark in ("\x1b", "\x07", "\u202e")):
                raise AssertionError(f"control characters: {result.output!r}")
            return result.stdout

        return call

    def library(function: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            try:
                function()
            except FinetuneError as error:
                one_line(f"Error: {error}\n")
                raise

        return call

    return {
        "predict": command("predict", *names, "--run", run, "--json"),
        "report": command("report", run, "--no-open"),
        "evaluate": command("evaluate", run, "--output", folder / "evaluation"),
        "export": command("export", run, "--format", "timm", "--output", folder / "exported"),
        "compare": command("compare", run, run.parent / "intact"),
        "card": library(lambda: model_card(open_run(run))),
        "resume": command("train", "--resume", run, "--quiet"),
        "progress": library(lambda: read_progress(open_run(run))),
        "parent": library(lambda: inherit(resolve({}, {}), open_parent(open_run(run)))),
        "settings": library(lambda: settings_of(run / "config.json", {}, None)),
    }


def one_line(text: str) -> None:
    """Raises AssertionError unless a text has one error, in one printable line."""
    errors = [line for line in text.splitlines() if line.startswith("Error: ")]
    if len(errors) != 1:
        raise AssertionError(f"not one line of error: {text[-2000:]!r}")
    if len(errors[0]) > 2007 or any(ord(c) < 32 or c == "\u202e" for c in errors[0]):
        raise AssertionError(f"an error of {len(errors[0])} characters: {errors[0][:300]!r}")


def refuse(self: socket.socket, address: Any) -> None:
    """Takes the place of connecting a socket."""
    raise AssertionError(f"a connection to {address}")


def attempt(run: Path, photos: Path, folder: Path) -> dict[str, Any]:
    """Uses a run in every way; returns the seconds and results by use, and the growth in bytes."""
    outcome: dict[str, Any] = {"findings": [], "answers": {}, "seconds": {}, "refused": []}
    for name, use in uses(run, photos, folder).items():
        started = cpu_seconds()
        try:
            outcome["answers"][name] = use()
        except FinetuneError:
            outcome["refused"].append(name)
        except BaseException:  # noqa: BLE001 - any other exception is a finding
            lines = traceback.format_exc().splitlines()[-12:]
            outcome["findings"].append("\n".join([f"{name}:", *lines])[-4000:])
        outcome["seconds"][name] = cpu_seconds() - started
    return outcome


def cpu_seconds() -> float:
    """Returns the time of all cores that this process and its children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def in_fork(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the result of a function called in a fork, with the growth of its memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            socket.socket.connect = refuse  # type: ignore[assignment,method-assign]
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            result = function()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            result["growth"] = peak - before
            with os.fdopen(writer, "w", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as file:
        text = file.read()
    os.waitpid(child, 0)
    if not text:
        return {"findings": ["the process died"], "answers": {}, "seconds": {}, "growth": 0}
    return dict(json.loads(text))


def copied(run: Path, mutation: Mutation | None, folder: Path) -> Path:
    """Returns a copy of a run with one file mutated; files that are only replaced are links."""
    shutil.rmtree(folder, ignore_errors=True)

    def link(source: str, target: str) -> None:
        (shutil.copy2 if source.endswith((".jsonl", ".lock")) else os.link)(source, target)

    shutil.copytree(run, folder / "run", copy_function=link)
    shutil.copytree(run, folder / "intact", copy_function=link)
    if mutation is not None:
        file = folder / "run" / mutation.file
        file.unlink()
        file.write_bytes(mutation.content())
    return folder / "run"


def answer(outcome: dict[str, Any]) -> Any:
    """Returns what was predicted, without the name of the run; None if it was refused."""
    text = outcome["answers"].get("predict")
    return (
        None
        if text is None
        else [
            {key: row.get(key) for key in ("status", "ranked", "error")} for row in json.loads(text)
        ]
    )


def main() -> int:
    """Runs the mutations of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=300, help="0: all mutations.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Keep the trained runs here.")
    parser.add_argument("--only", default="", help="Only mutations whose name has this text.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="finetune-hostile-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        os.environ["COLUMNS"] = "4000"
        runs = train_runs(folder)
        chosen = [m for run in runs for m in mutations(run) if options.only in str(m)]
        total = len(chosen)
        if options.examples:
            chosen = spread(chosen, options.examples, random.Random(options.seed))
        photos, work = folder / "photos", folder / "work"
        intact, usual, counts = {}, {}, Counter[str]()
        for run in runs:
            path = copied(run, None, work)
            attempt(path, photos, work)  # so that no child has to import anything
            path = copied(run, None, work)
            outcome = in_fork(lambda path=path: attempt(path, photos, work))  # type: ignore[misc]
            intact[run], usual[run] = answer(outcome), outcome["seconds"]
            slowest = max(outcome["seconds"].values())
            print(
                f"{run.name}, intact: at most {slowest:.2f} s a use, "
                f"{outcome['growth'] / 1e6:.0f} MB; refused {outcome['refused']}, "
                f"wrong {outcome['findings']}"
            )
        slowest, largest = 0.0, 0
        for number, mutation in enumerate(chosen):
            if number % 50 == 0:
                print(f"{number} of {len(chosen)} ...", file=sys.stderr)
            path = copied(mutation.run, mutation, work)
            outcome = in_fork(lambda path=path: attempt(path, photos, work))  # type: ignore[misc]
            for finding in outcome["findings"]:
                counts["connections" if "a connection to" in finding else "tracebacks"] += 1
                print(f"--- {mutation}\n{finding}")
            for name, seconds in outcome["seconds"].items():
                seconds -= usual[mutation.run][name]
                slowest = max(slowest, seconds)
                if seconds > SECONDS:
                    counts["slow"] += 1
                    print(f"--- {mutation}\n{name} took {seconds:.1f} s more")
            largest = max(largest, outcome["growth"])
            if outcome["growth"] > GROWTH_BYTES:
                counts["large"] += 1
                print(f"--- {mutation}\n{outcome['growth'] / 1e6:.0f} MB")
            found = answer(outcome)
            counts["refused" if found is None else "answered"] += 1
            if found is not None and found != intact[mutation.run]:
                counts["other answers"] += 1
                print(f"--- {mutation}\nanother answer: {json.dumps(found)[:300]}")
            sys.stdout.flush()
    print(
        f"{len(chosen):,} of {total:,} mutations: {counts['tracebacks']} tracebacks, "
        f"{counts['connections']} connections, predictions refused {counts['refused']:,} times, "
        f"answered {counts['answered']:,} times, otherwise than intact "
        f"{counts['other answers']} times; at most {slowest:.2f} s slower ({counts['slow']} over "
        f"{SECONDS:g} s), most memory {largest / 1e6:.0f} MB ({counts['large']} over 1 GB)"
    )
    return 1 if counts["tracebacks"] or counts["connections"] or counts["slow"] else 0


if __name__ == "__main__":
    sys.exit(main())
