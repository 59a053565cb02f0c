"""Fills a disk at every write: each command must fail in one line and lose nothing.

    sudo unshare -m python benchmarks/full_disk.py [--pages 24] [--only predict]

Mounts a small file system, fills it but for some pages of 4 kB, and runs a command in a fork of a
process that has imported everything: with 0, 1, 2 ... free pages up to --pages, then with a third
more each time, until the command succeeds. After a failure, all files that were there must have the
same content (a photo that is moved: one of its two places), there must be one line of error and no
partial file, and the same command must succeed once there is space. Linux, as root.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_runs
import torch
from typer.testing import CliRunner

from finetune.cli import app
from finetune.config_io import resolve
from finetune.photos.catalog.catalog import open_catalog
from finetune.training.train import train

DISK_MEGABYTES = 48
PAGE = 4096


def digests(folder: Path) -> dict[str, str]:
    """Returns the digest of each file that may not change, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".finetune" not in path.parts and path.name != "fill"
    }


def commands(disk: Path, base: Path) -> dict[str, list[str]]:
    """Returns the command lines by name."""
    photos, run = str(disk / "photos"), str(base / "runs/full")
    tiny = ["--model", "simple_cnn", "--weights", "none", "--mode", "full", "--size", "32"]
    tiny += ["--epochs", "2", "--quiet"]
    return {
        "scan": ["scan", photos],
        "train full": ["train", photos, "--name", str(disk / "runs/new"), *tiny],
        "train head": [
            "train",
            photos,
            "--name",
            str(disk / "runs/new"),
            "--size",
            "64",
            "--quiet",
        ],
        "resume": ["train", "--resume", str(disk / "killed"), "--quiet"],
        "predict --csv": ["predict", photos, "--run", run, "--csv", str(disk / "out.csv")],
        "sort, copies": ["predict", photos, "--run", run, "--sort-into", str(disk / "sorted")],
        "sort, moves": [
            *("predict", photos, "--run", run, "--sort-into", str(disk / "sorted")),
            *("--transfer", "move", "--yes"),
        ],
        "export onnx": ["export", run, "--format", "onnx", "--output", str(disk / "model.onnx")],
        "export timm": ["export", run, "--format", "timm", "--output", str(disk / "timm")],
        "evaluate": ["evaluate", run, "--output", str(disk / "evaluation")],
        "report": ["report", run, "--output", str(disk / "report.html"), "--no-open"],
        "export-photos": ["export-photos", str(disk / "exported"), photos],
        "import": ["import", str(base / "labels.csv"), photos],
        "duplicates": ["duplicates", photos, "--quarantine", str(disk / "quarantine"), "--yes"],
        "split": ["split", photos, "--output", str(disk / "split.csv")],
        "label": ["label", photos],  # no command: a write of the annotation page
    }


def run_command(words: list[str]) -> tuple[int, str]:
    """Returns the exit code of a command and what it wrote to stderr."""
    if words[0] == "label":
        return label_photos(Path(words[1]))
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def label_photos(photos: Path) -> tuple[int, str]:
    """Labels 40 photos in 40 transactions, as the annotation page does."""
    from finetune.errors import FinetuneError

    try:
        with open_catalog(photos) as catalog:
            for number in range(40):
                catalog.set_labels([f"{number:032x}"], ["heron" * 20])
    except FinetuneError as error:
        return 1, f"Error: {error}\n"
    return 0, ""


def in_fork(function: Callable[[], str]) -> str:
    """Returns the text of a function that runs in a fork; a traceback where it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = function()
        except BaseException:  # noqa: BLE001 - reported
            text = "TRACEBACK " + "\n".join(traceback.format_exc().splitlines()[-14:])
        os.write(writer, text.encode(errors="replace")[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def lost(before: dict[str, str], disk: Path, words: list[str]) -> list[str]:
    """Returns the files that are gone or changed; one that was moved may be anywhere."""
    now = digests(disk)
    contents = set(now.values())
    moves = "move" in words or "--quarantine" in words
    if words[:2] == ["train", "--resume"]:
        before = {name: digest for name, digest in before.items() if "killed" not in name}
    return [
        name
        for name, digest in before.items()
        if now.get(name) != digest and not (moves and digest in contents)
    ]


def fill(disk: Path, free_pages: int) -> None:
    """Fills the disk but for some pages."""
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(max(0, (file.tell() // PAGE - free_pages)) * PAGE)


def prepare(base: Path, disk: Path) -> None:
    """Empties the disk, and copies photos, a catalog with labels, and a killed run onto it."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(base / "photos", disk / "photos")
    config = json.loads((base / "runs/killed/config.json").read_text())
    shutil.copytree(base / "runs/killed", disk / "killed")
    config["photos"] = str(disk / "photos")
    (disk / "killed/config.json").write_text(json.dumps(config))


def attempts(pages: int) -> Iterator[int]:
    """Yields numbers of free pages."""
    yield from range(pages)
    free = pages
    while free * PAGE < DISK_MEGABYTES << 19:
        yield free
        free += free // 3


def check(name: str, words: list[str], base: Path, disk: Path, pages: int) -> list[str]:
    """Runs a command with every number of free pages; returns what was wrong."""
    wrong, tried = [], 0
    for free in attempts(pages):
        prepare(base, disk)
        before = digests(disk)
        fill(disk, free)

        def use(again: list[str] | None = None) -> str:
            code, stderr = run_command(again or words)
            return f"{code} {stderr}"

        found = in_fork(use)
        tried += 1
        if found.startswith("TRACEBACK"):
            wrong.append(f"{free} pages: {found}")
        (disk / "fill").unlink()
        if found.startswith("0 ") and free >= pages:
            break
        errors = [line for line in found.splitlines() if "Error: " in line]
        if found.startswith("1 ") and len(errors) != 1:
            wrong.append(f"{free} pages: no one line of error: {found[-600:]}")
        if gone := lost(before, disk, words):
            wrong.append(f"{free} pages: lost or changed {gone[:5]}")
        with open_catalog(disk / "photos") as catalog:
            if catalog.annotations(["aa"])["aa"].labels != ("before",):
                wrong.append(f"{free} pages: a label is lost")
        parts = [str(path) for path in disk.rglob("*.part")]
        if parts and "checkpoints" not in parts[0]:
            wrong.append(f"{free} pages: left behind {parts}")
        resumed = re.search(r"finetune train (--resume \S+[^.\s])", found)
        next_words = ["train", *resumed[1].split(), "--quiet"] if resumed else words
        again = found if found.startswith("0 ") else in_fork(lambda: use(next_words))  # noqa: B023
        if not again.startswith("0 "):
            wrong.append(f"{free} pages: the same command fails with space: {again[-600:]}")
    print(f"{name}: {tried} runs, {len(wrong)} wrong", flush=True)
    for text in wrong[:6]:
        print(f"    {text}", flush=True)
    return wrong


def main() -> int:
    """Runs all commands."""
    torch.set_num_threads(1)  # others do not survive a fork
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("mounting a file system needs root: sudo unshare -m python ...")
    os.environ["COLUMNS"] = "4000"
    with tempfile.TemporaryDirectory(prefix="finetune-disk-") as folder:
        base, disk = Path(folder) / "base", Path(folder) / "disk"
        base.mkdir()
        disk.mkdir()
        hostile_runs.draw_photos(base / "photos")
        config = resolve({}, {**hostile_runs.TINY, "device": "cpu"})
        train(base / "photos", config, run="full", runs=base / "runs")
        hostile_runs.kill_training(base / "photos", base / "runs")
        with open_catalog(base / "photos") as catalog:
            catalog.set_labels(["aa"], ["before"])
        names = [f"disc/{number}.png" for number in range(0, 40, 2)]
        rows = "".join(f"{name},ball\n" for name in names)
        (base / "labels.csv").write_text("path,label\n" + rows)
        copy = base / "photos/disc/0.png"
        shutil.copy(copy, copy.with_name("copy.png"))
        with sqlite3.connect(base / "photos/.finetune/catalog.sqlite3") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        mount(disk)
        try:
            wrong = []
            for name, words in commands(disk, base).items():
                if options.only in name:
                    wrong += check(name, words, base, disk, options.pages)
        finally:
            ctypes.CDLL(None).umount2(str(disk).encode(), 2)
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


def mount(disk: Path) -> None:
    """Mounts an empty file system in memory on a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = f"size={DISK_MEGABYTES}m".encode()
    if libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, size) != 0:
        raise OSError(ctypes.get_errno(), "the file system cannot be mounted")


if __name__ == "__main__":
    sys.exit(main())
