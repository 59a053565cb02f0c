from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest

from finetune.errors import ConfigError
from finetune.photos.split.split import TEST_FROM_GROUPS
from finetune.photos.split.stratify import stratify_groups


def collection(
    seed: int, photos: int = 240, labels: int = 7, groups: int = 170
) -> tuple[list[tuple[str, ...]], list[str]]:
    rng = np.random.default_rng(seed)
    common = rng.random(labels) ** 2 * 0.5 + 0.01
    group_of = [f"g{g}" for g in rng.integers(0, groups, photos)]
    first: dict[str, tuple[str, ...]] = {}
    found = []
    for group in group_of:
        if group not in first or rng.random() < 0.3:
            first[group] = tuple(f"l{c}" for c in range(labels) if rng.random() < common[c])
        found.append(first[group])
    return found, group_of


def misses(
    labels: list[tuple[str, ...]],
    parts: Sequence[str],
    shares: dict[str, float],
) -> float:
    """Mean difference of each label's count in each part from its share; none is a label too."""
    total = Counter(name for entry in labels for name in (entry or ("none",)))
    held = Counter((name, part) for entry, part in zip(labels, parts, strict=True)
                   for name in (entry or ("none",)))  # fmt: skip
    return fmean(
        abs(held[name, part] - share * total[name])
        for name in total
        for part, share in shares.items()
    )


SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


@pytest.mark.parametrize("seed", range(5))
def test_every_label_has_its_share_nearer_than_in_the_best_of_200_draws(seed: int) -> None:
    labels, groups = collection(seed)
    parts = stratify_groups(labels, groups, validation=0.15, test=0.15, seed=0)
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    drawn = []
    for _ in range(200):
        of = dict(zip(names, rng.choice(list(SHARES), len(names), p=list(SHARES.values())),
                      strict=True))  # fmt: skip
        drawn.append(misses(labels, [of[g] for g in groups], SHARES))
    assert misses(labels, parts, SHARES) < min(drawn)
    assert misses(labels, parts, SHARES) < 0.75


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_labels_have_their_parts(seed: int) -> None:
    labels, groups = collection(seed)
    parts = stratify_groups(labels, groups, validation=0.15, test=0.15, seed=seed)
    assert all(len({p for p, g in zip(parts, groups, strict=True) if g == group}) == 1
               for group in set(groups))  # fmt: skip
    for label in {name for entry in labels for name in entry}:
        own = {g for g, entry in zip(groups, labels, strict=True) if label in entry}
        held = {p for p, entry in zip(parts, labels, strict=True) if label in entry}
        assert "train" in held
        if len(own) >= 2:
            assert "validation" in held
        if len(own) >= TEST_FROM_GROUPS:
            assert "test" in held


def test_few_groups_are_divided_optimally() -> None:
    labels: list[tuple[str, ...]] = [("a",), ("a", "b"), ("b",), ("a",), (), ("a", "b"), (), ("b",)]
    parts = stratify_groups(labels, range(8), validation=0.5, test=0, seed=0)
    shares = {"train": 0.5, "validation": 0.5}
    best = min(misses(labels, way, shares) for way in itertools.product(shares, repeat=8))
    assert misses(labels, parts, shares) == best == 0


def test_photos_without_labels_are_shared_out_too() -> None:
    labels: list[tuple[str, ...]] = [("a",)] * 40 + [()] * 40
    parts = stratify_groups(labels, range(80), validation=0.25, test=0.25, seed=0)
    assert Counter(parts[40:]) == {"train": 20, "validation": 10, "test": 10}
    assert Counter(parts[:40]) == {"train": 20, "validation": 10, "test": 10}


def test_the_order_of_the_photos_changes_nothing_and_the_seed_does() -> None:
    labels, groups = collection(1)
    plain = stratify_groups(labels, groups, validation=0.2, test=0.1, seed=4)
    order = np.random.default_rng(0).permutation(len(labels))
    again = stratify_groups([labels[i] for i in order], [groups[i] for i in order],
                            validation=0.2, test=0.1, seed=4)  # fmt: skip
    assert [plain[i] for i in order] == again
    assert stratify_groups(labels, groups, validation=0.2, test=0.1, seed=5) != plain


def test_without_a_test_share_nothing_is_put_there() -> None:
    labels, groups = collection(2)
    parts = stratify_groups(labels, groups, validation=0.3, test=0.0, seed=0)
    assert set(parts) == {"train", "validation"}
    assert misses(labels, parts, {"train": 0.7, "validation": 0.3}) < 0.75


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        stratify_groups([("a",)], [0], validation=0.6, test=0.4, seed=0)
    assert str(error.value) == (
        "--validation 0.6 and --test 0.4 must be 0 or more and leave something to train on."
    )
