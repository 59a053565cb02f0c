"""Predictions of a folder by two processes: bytes, time, and kills of one of them.

    python benchmarks/processes.py RUN PHOTOS [--kills 10] [--seed 0] [--copies 1]

Predicts the photos with one process and with two that torchrun starts, and compares the tables byte
by byte. Then starts two processes, kills one of them with SIGKILL at a random moment, runs the same
command again and compares once more. Beforehand, a prediction prepares the graph of the run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FINETUNE = [sys.executable, "-m", "finetune"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=1, help="copies of the photos to predict")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        folder = Path(name)
        for number in range(given.copies):
            shutil.copytree(
                given.photos,
                folder / "photos" / str(number),
                ignore=shutil.ignore_patterns(".finetune"),
            )
        words = ["predict", str(folder / "photos"), "--run", str(given.run), "--quiet", "--csv"]
        first = next(file for file in (folder / "photos").rglob("*.jpg"))
        subprocess.run([*FINETUNE, "predict", str(first), "--run", str(given.run)], check=True)
        one, two = folder / "one.csv", folder / "two.csv"
        alone = timed([*FINETUNE, *words, str(one)])
        both = timed([*TORCHRUN, "-m", "finetune", "--", *words, str(two)])
        rows = one.read_bytes().count(b"\n") - 1
        print(f"{rows} photos: one process {alone:.1f} s, two by torchrun {both:.1f} s")
        print(f"tables: {verdict(one, two)}\n")
        rng = random.Random(given.seed)
        print("| killed | after, s | rows that were there | table |\n|---|---:|---:|---|")
        wrong = one.read_bytes() != two.read_bytes()
        for number in range(given.kills):
            table = folder / f"{number}.csv"
            wait, rank = rng.uniform(0.3, max(1.0, both)), rng.randrange(2)
            left = kill_one(words, table, rank, wait)
            for process in pair(words, table):
                process.wait()
            wrong |= one.read_bytes() != table.read_bytes()
            print(f"| rank {rank} | {wait:.2f} | {left} | {verdict(one, table)} |", flush=True)
    sys.exit(1 if wrong else 0)


def timed(command: list[str]) -> float:
    """Runs a command and returns its elapsed time in seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def pair(words: list[str], table: Path) -> list[subprocess.Popen[bytes]]:
    """Starts both processes with the environment that torchrun gives them."""
    return [
        subprocess.Popen(
            [*FINETUNE, *words, str(table)],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in (0, 1)
    ]


def kill_one(words: list[str], table: Path, rank: int, wait: float) -> int:
    """Kills a process after some seconds; returns the rows that are there when both ended."""
    processes = pair(words, table)
    time.sleep(wait)
    processes[rank].kill()
    for process in processes:
        process.wait()
    files = [table, *table.with_name(f"{table.name}.parts").glob("*.csv")]
    return sum(max(0, file.read_bytes().count(b"\n") - 1) for file in files if file.is_file())


def verdict(one: Path, other: Path) -> str:
    """Returns whether two tables have the same bytes."""
    return "same bytes" if one.read_bytes() == other.read_bytes() else "OTHER BYTES"


if __name__ == "__main__":
    main()
