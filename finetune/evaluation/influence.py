"""Influence of training photos: the change in held-out error when a group of them is left out.

For ridge regression of one-hot labels on features, leaving photos out has a closed form. With the
hat matrix ``H = X (X'X + l I)^-1 X'`` and residuals ``r = Y - H Y``, leaving group g out changes
them to (Cook and Weisberg 1982, "Residuals and Influence in Regression", section 3.4)

    r - g:  r + H[:, g] (I - H[g, g])^-1 r[g]
    H - g:  H + H[:, g] (I - H[g, g])^-1 H[g, :]

and the held-out residual of a group h is ``(I - H[h, h])^-1 r[h]`` of either. So each group's
effect on all others is exact, each of them held out, without a single head fitted anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.probabilities import Floats, Integers

PENALTIES = tuple(10.0**power for power in range(-3, 3))
"""Penalties to try, in units of the mean squared length of a photo's features."""


def group_influences(
    features: Floats, targets: Integers, groups: NDArray[Any]
) -> tuple[Floats, Floats]:
    """Returns the influence of each photo's group, and the held-out scores of the photos.

    The influence ``(N,)`` is the mean squared error of all other photos with the group minus that
    without it, times N: above 0 the group harms. The scores ``(N, C)`` are those of the labels by a
    regression without the photo's group. The penalty is that with the lowest held-out error.

    Args:
        features: ``(N, F)``, standardized.
        targets: ``(N,)``.
        groups: ``(N,)``.
    """
    count, labels = len(targets), int(targets.max()) + 1
    shares = np.bincount(targets, minlength=labels) / count
    wanted = np.eye(labels)[targets] - shares
    centered = np.asarray(features, np.float64) - features.mean(axis=0)
    variances, axes = np.linalg.eigh(centered @ centered.T)
    variances = variances.clip(min=0)
    scale = max(float(variances.sum()) / count, 1e-12)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def fit(penalty: float) -> tuple[Floats, Floats, Floats]:
        # The constant is fitted too: its part of the hat matrix is 1 / N.
        hat = (axes * (variances / (variances + penalty * scale))) @ axes.T + 1 / count
        rest = wanted - hat @ wanted
        return hat, rest, _held_out(hat, rest, members)

    hat, rest, held = min(map(fit, PENALTIES), key=lambda found: float((found[2] ** 2).sum()))
    influence = np.zeros(count)
    errors = (held**2).sum(axis=1)
    singles = np.array([len(rows) == 1 for rows in members])
    alone = np.concatenate([rows for rows in members if len(rows) == 1] or [np.array([], int)])
    several = [rows for rows in members if len(rows) > 1]
    diagonal = np.diag(hat)
    for rows in members:
        gain = np.linalg.solve(np.eye(len(rows)) - hat[np.ix_(rows, rows)], hat[rows]).T  # (N, g)
        without = rest + gain @ rest[rows]
        change = 0.0
        if singles.any():
            others = alone[~np.isin(alone, rows)]
            own = diagonal[others] + (gain[others] * hat[others][:, rows]).sum(axis=1)
            left = without[others] / (1 - own)[:, None]
            change += float(errors[others].sum() - (left**2).sum())
        for other in several:
            if other[0] == rows[0]:
                continue
            block = hat[np.ix_(other, other)] + gain[other] @ hat[np.ix_(rows, other)]
            left = np.linalg.solve(np.eye(len(other)) - block, without[other])
            change += float(errors[other].sum() - (left**2).sum())
        influence[rows] = change
    return influence, wanted - held + shares


def _held_out(hat: Floats, rest: Floats, members: list[NDArray[np.int64]]) -> Floats:
    """Returns the residuals of each group by a regression without it, ``(N, C)``."""
    found = np.zeros_like(rest)
    for rows in members:
        block = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        found[rows] = np.linalg.solve(block, rest[rows])
    return found
