"""Time of near-duplicate search: multi-index hashing, brute force in NumPy, imagededup.

    python benchmarks/duplicates.py [--million] [--imagededup 10000]

Hashes are random 64-bit numbers, a tenth of them copies with up to five bits flipped: about photos
/ 10 pairs, found by every candidate. Each result is the median of its rounds in seconds of CPU
time, child processes included (finetune has none); memory is the peak of the process so far.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.photos.near_duplicates.groups import group_photos
from finetune.photos.near_duplicates.hamming import near_pairs
from finetune.photos.near_duplicates.pairs import Fingerprints, NearDuplicateRule

Hashes = NDArray[np.uint64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", action="store_true", help="also 1,000,000 hashes at 6 bits")
    parser.add_argument("--imagededup", type=int, default=10_000, help="hashes it gets; 0: none")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    lines = [
        "| hashes | bits | pairs | finding pairs, s | groups with second hash and mirror, s "
        "| brute force, s | brute force / ours | peak memory, MB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    sizes = [(10_000, 8), (100_000, 8)] + [(1_000_000, 6)] * options.million
    for count, bits in sizes:
        hashes = planted(count)
        pairs = near_pairs(hashes, max_distance_bits=bits)
        check_sample(hashes, pairs, bits)
        rounds = 5 if count < 1_000_000 else 1
        ours = median(partial(near_pairs, hashes, max_distance_bits=bits), rounds)
        prints = compute_fingerprints(hashes)
        rule = NearDuplicateRule(max_distance_bits=bits)
        groups = median(partial(group_photos, prints, rule), rounds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        brute = median(partial(brute_force, hashes, bits), 1) if count <= 100_000 else None
        lines.append(
            f"| {count:,} | {bits} | {len(pairs):,} | {ours:.3f} | {groups:.3f} "
            f"| {'' if brute is None else f'{brute:.2f}'} "
            f"| {'' if brute is None else f'{brute / ours:.1f}'} | {memory:.0f} |"
        )
    # Last, since it loads torch, which would count as our memory.
    other = imagededup_seconds(options.imagededup, 8) if options.imagededup else None
    if other is not None:
        hashes = planted(options.imagededup)
        ours = median(partial(near_pairs, hashes, max_distance_bits=8), 5)
        lines += [
            "",
            "| hashes | bits | imagededup, s | finding pairs, s | imagededup / ours |",
            "|--:|--:|--:|--:|--:|",
            f"| {len(hashes):,} | 8 | {other:.2f} | {ours:.3f} | {other / ours:.0f} |",
        ]
    table = "\n".join(lines)
    print(table)
    if options.output is not None:
        options.output.write_text(table + "\n", encoding="utf-8")


def planted(count: int) -> Hashes:
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    flips = np.zeros(copies, dtype=np.uint64)
    for _ in range(5):
        flips |= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    hashes[-copies:] = hashes[rng.integers(0, count - copies, copies)] ^ flips
    return hashes


def compute_fingerprints(hashes: Hashes) -> Fingerprints:
    count = len(hashes)
    rng = np.random.default_rng(1)
    return Fingerprints(
        content=np.arange(count),
        perceptual=hashes,
        difference=np.full(count, 0x5A5A5A5A5A5A5A5A, dtype=np.uint64),
        mirrored_perceptual=rng.integers(0, 2**64, count, dtype=np.uint64),
        mirrored_difference=np.full(count, 0xA5A5A5A5A5A5A5A5, dtype=np.uint64),
        featureless=np.zeros(count, dtype=bool),
        seconds=np.full(count, np.nan),
        camera=np.zeros(count, dtype=np.intp),
    )


def brute_force(hashes: Hashes, bits: int) -> int:
    """Compares all pairs in blocks of rows; returns the number of near ones."""
    found = 0
    for start in range(0, len(hashes), 64):
        rows = hashes[start : start + 64, None]
        distance = np.bitwise_count(rows ^ hashes[None, start + 1 :])
        near = distance <= bits
        found += int(np.triu(near[:, : len(rows)]).sum()) + int(near[:, len(rows) :].sum())
    return found


def check_sample(hashes: Hashes, pairs: NDArray[np.intp], bits: int, rows: int = 300) -> None:
    """Exits if the pairs of a sample of hashes differ from those of brute force."""
    chosen = np.random.default_rng(0).choice(len(hashes), rows, replace=False)
    for index in chosen.tolist():
        near = np.flatnonzero(np.bitwise_count(hashes ^ hashes[index]) <= bits)
        expected = set(near.tolist()) - {index}
        mine = pairs[(pairs == index).any(axis=1)].ravel().tolist()
        if set(mine) - {index} != expected:
            sys.exit(f"The pairs of hash {index} are not those of brute force.")


def imagededup_seconds(count: int, bits: int) -> float | None:
    try:
        from imagededup.methods import PHash
    except ImportError:
        return None
    logging.disable(logging.INFO)
    encodings = {str(i): f"{value:016x}" for i, value in enumerate(planted(count).tolist())}
    method = PHash(verbose=False)
    start = cpu_seconds()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        method.find_duplicates(
            encoding_map=encodings, max_distance_threshold=bits, num_dist_workers=0
        )
    return cpu_seconds() - start


def cpu_seconds() -> float:
    return sum(os.times()[:4])  # with that of ended child processes


def median(act: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = cpu_seconds()
        act()
        times.append(cpu_seconds() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
