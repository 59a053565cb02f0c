"""Label balancing: stratified sampling of epochs, and label weights in the loss.

Both take the photos' targets: ``(N,) int64`` of one label each, or ``(N, C)`` of 0 and 1 where a
photo may have several labels or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

INVERSE_FREQUENCY = 1.0
"""`beta` at which the effective number of photos is the number of photos."""


def label_counts(targets: NDArray[Any], labels: int) -> Indices:
    """Returns how many photos each label has, ``(C,)``; a photo counts for each of its labels."""
    if targets.ndim == 1:
        return np.bincount(targets, minlength=labels).astype(np.int64)
    counts: Indices = (targets > 0).sum(axis=0).astype(np.int64)
    return counts


def label_weights(targets: NDArray[Any], labels: int, *, beta: float) -> NDArray[np.float64]:
    """Returns the weight of each label in the loss, ``(C,)``, by its effective number of photos.

    ``w_c = k / E_c`` with ``E_c = (1 - beta^n_c) / (1 - beta)`` (Cui et al. 2019, arXiv
    1901.05555, eq. 2 and 4): the n-th photo of a label brings ``beta^(n-1)`` as much as the first.
    At 0 all labels weigh the same, at 1 by the inverse of their photos, ``E_c = n_c``. The factor k
    makes the mean weight of all (photo, label) pairs 1, so that the learning rate suits as before.
    A label without photos weighs 1.

    Args:
        targets: Of the training photos.
        labels: C.
        beta: In [0, 1].

    Example:
        >>> label_weights(np.array([0, 0, 0, 1]), 2, beta=1.0).round(3).tolist()
        [0.667, 2.0]
    """
    counts = label_counts(targets, labels).astype(np.float64)
    if beta == INVERSE_FREQUENCY:
        effective = counts.copy()
    else:
        # 1 - beta^n by expm1: for a beta next to 1 the difference would drown in rounding.
        exponent = counts * np.log(beta) if beta > 0 else np.where(counts > 0, -np.inf, 0.0)
        effective = -np.expm1(exponent) / (1 - beta)
    present = counts > 0
    weights = np.ones(labels)
    weights[present] = 1 / effective[present]
    if present.any():
        pairs = counts[present]
        weights[present] *= pairs.sum() / (pairs * weights[present]).sum()
    return weights


def prior_logits(targets: NDArray[Any]) -> NDArray[np.float64]:
    """Returns ``log((n_c + 1/2) / (N - n_c + 1/2))`` of each label, ``(C,)``.

    Initial biases of a head of sigmoids (Lin et al. 2017, arXiv 1708.02002, section 4.1): from 0,
    the few steps of a small collection leave all labels too likely.

    Args:
        targets: ``(N, C)`` of 0 and 1.
    """
    counts = (targets > 0).sum(axis=0).astype(np.float64)
    logits: NDArray[np.float64] = np.log((counts + 0.5) / (len(targets) - counts + 0.5))
    return logits


def strata(targets: NDArray[Any], labels: int) -> list[Indices]:
    """Returns the photos of each label, without empty labels, and last the unlabeled photos.

    A photo of several labels is in the stratum of each.
    """
    if targets.ndim == 1:
        found = [np.flatnonzero(targets == label) for label in range(labels)]
    else:
        found = [np.flatnonzero(targets[:, label] > 0) for label in range(labels)]
        found.append(np.flatnonzero(~(targets > 0).any(axis=1)))
    return [places.astype(np.int64) for places in found if len(places)]


def balanced_order(groups: list[Indices], count: int, *, seed: int, epoch: int) -> Indices:
    """Returns `count` photos of an epoch, sampled by (seed, epoch) equally from all strata.

    Each stratum gives ``count / len(groups)`` samples, rounded up for a random few. Within a
    stratum every photo is sampled before one is repeated.

    Args:
        groups: The photos of each stratum; see `strata`.
        count: Samples: the number of photos, so that an epoch is as long as without balance.
        seed: Of the run.
        epoch: From 0.
    """
    rng = np.random.default_rng((seed, epoch, 0xBA1A))
    share, left = divmod(count, len(groups))
    extra = np.zeros(len(groups), dtype=np.int64)
    extra[rng.permutation(len(groups))[:left]] = 1
    drawn = [
        _rounds(members, share + int(more), rng)
        for members, more in zip(groups, extra, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def draw_keys(batches: list[Indices], count: int) -> list[Indices]:
    """Returns a key for each sample of an epoch: the photo's index, plus `count` per repeat.

    It seeds the augmentation, so that repeats of a photo in an epoch are augmented differently.
    """
    seen = np.zeros(count, dtype=np.int64)
    keys = []
    for batch in batches:
        key = np.empty_like(batch)
        for place, index in enumerate(batch):
            key[place] = index + count * seen[index]
            seen[index] += 1
        keys.append(key)
    return keys


def _rounds(members: Indices, length: int, rng: np.random.Generator) -> Indices:
    """Returns `length` of the members: all of them in random order, repeatedly."""
    rounds = -(-length // len(members))
    orders = [rng.permutation(members) for _ in range(rounds)]
    return np.concatenate(orders)[:length] if orders else members[:0]
