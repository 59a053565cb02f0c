"""Folds for cross-validation: whole groups, stratified by label."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from finetune.errors import ConfigError
from finetune.photos.collection import Part
from finetune.photos.split.group_pool import GroupPool, Labels


def fold_groups(
    labels: Sequence[Labels], groups: Sequence[Hashable], *, folds: int, seed: int
) -> list[int]:
    """Returns the fold, from 0 to `folds` - 1, in which each photo is held out.

    Whole groups only; each label spread as evenly over the folds as its groups allow. A label whose
    photos are one group would be missing from training when held out, so it gets -1: it trains in
    every fold and is held out in none. The same holds for what shares a group with such a label.

    Raises:
        ConfigError: Fewer than 2 folds, or no label has groups enough for any to be held out.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds} must be at least 2.")
    # Photos without a label are spread as those of a label are.
    pool = GroupPool([entry or ("",) for entry in labels], groups, seed)
    fold_of: dict[Hashable, int] = {}
    load = [0] * folds
    for label in pool.rarest_first():
        members = pool.groups_of(label)
        if len(members) == 1:
            fold_of[members[0]] = -1
            continue
        held = [0] * folds
        for group in members:
            if fold_of.get(group, -1) >= 0:
                held[fold_of[group]] += pool.photos(group, label)
        # Largest first: the small ones then level what the large ones left uneven.
        for group in sorted(members, key=lambda group: -pool.photos(group, label)):
            if group in fold_of:
                continue
            chosen = min(range(folds), key=lambda fold: (held[fold], load[fold], fold))
            fold_of[group] = chosen
            held[chosen] += pool.photos(group, label)
            load[chosen] += pool.size(group)
    _spread_single_folds(pool, fold_of)
    if all(fold < 0 for fold in fold_of.values()):
        raise ConfigError(
            f"--folds {folds} cannot be made: no label has two groups of photos. "
            "Add photos, or use --group-by none."
        )
    return [fold_of[group] for group in groups]


def fold_parts(fold_of: Sequence[int], fold: int) -> list[Part]:
    """Returns the part of each photo while one fold is held out for validation."""
    return ["validation" if held == fold else "train" for held in fold_of]


def _spread_single_folds(pool: GroupPool, fold_of: dict[Hashable, int]) -> None:
    """Takes groups out of the folds until no label loses all its photos in any one of them."""
    changed = True
    while changed:
        changed = False
        for label in pool.rarest_first():
            members = pool.groups_of(label)
            folds = {fold_of[group] for group in members}
            if len(folds) == 1 and folds != {-1}:
                fold_of[members[0]] = -1
                changed = True
