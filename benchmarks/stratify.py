"""Deviation of label counts from their share in each part of a split of groups.

Synthetic collections, 15 % validation and 15 % test. Mean over labels and parts of the difference
in photos between a label's count and its share: for iterative stratification on groups, for groups
drawn label by label (the split for one label per photo), and for the best of 100 random splits.

    python benchmarks/stratify.py
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from finetune.photos.split.split import split_groups
from finetune.photos.split.stratify import stratify_groups

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
SIZES = ((300, 8, 220), (2_000, 20, 1_500), (10_000, 80, 8_000))


def collection(
    rng: np.random.Generator, photos: int, labels: int, groups: int
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns labels and groups of photos; most photos of a group have the same labels."""
    common = rng.random(labels) ** 2 * 0.5 + 0.01
    group_of = [f"g{group}" for group in rng.integers(0, groups, photos)]
    first: dict[str, tuple[str, ...]] = {}
    found = []
    for group in group_of:
        if group not in first or rng.random() < 0.3:
            first[group] = tuple(str(c) for c in range(labels) if rng.random() < common[c])
        found.append(first[group])
    return found, group_of


def miss(labels: Sequence[tuple[str, ...]], parts: Sequence[str]) -> float:
    """Returns the mean difference between a label's count in a part and its share."""
    pairs = [
        (name, part)
        for entry, part in zip(labels, parts, strict=True)
        for name in entry or ("none",)
    ]
    total = Counter(name for name, _ in pairs)
    held = Counter(pairs)
    return float(
        np.mean(
            [
                abs(held[name, part] - share * total[name])
                for name in total
                for part, share in SHARES.items()
            ]
        )
    )


def main() -> None:
    """Prints a row per size."""
    print("| photos | labels | stratified | label by label | best of 100 draws | seconds |")
    print("|---:|---:|---:|---:|---:|---:|")
    for photos, count, size in SIZES:
        rng = np.random.default_rng(photos)
        labels, groups = collection(rng, photos, count, size)
        started = time.perf_counter()
        ours = miss(labels, stratify_groups(labels, groups, validation=0.15, test=0.15, seed=0))
        seconds = time.perf_counter() - started
        named = [entry or ("none",) for entry in labels]
        other = miss(labels, split_groups(named, groups, validation=0.15, test=0.15, seed=0))
        keys = sorted(set(groups))
        chance = []
        for _ in range(100):
            drawn = rng.choice(list(SHARES), len(keys), p=list(SHARES.values()))
            of = dict(zip(keys, drawn, strict=True))
            chance.append(miss(labels, [of[group] for group in groups]))
        print(
            f"| {photos:,} | {count} | {ours:.2f} | {other:.2f} | {min(chance):.2f} | "
            f"{seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
