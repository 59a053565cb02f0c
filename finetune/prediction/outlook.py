"""Outlook of a run with a head on a frozen backbone: learning curve, and photos that harm it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.curation.label_errors import FeatureRows
from finetune.errors import ConfigError, RunError
from finetune.evaluation.influence import group_influences
from finetune.evaluation.learning_curve import SHARES, LearningCurve, fit_learning_curve
from finetune.models.features import FeatureCache
from finetune.photos.split.split import SplitRow, fold_groups
from finetune.reporting.outlook import HarmfulPhoto
from finetune.tasks.data_split import FOLDS
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import HeadFitter, Shrinkage, Strength
from finetune.training.linear_probe.learning_curve import FEWEST_PHOTOS, curve_outputs

DRAWS = 3
"""Draws of each share of the photos."""

MOST_PHOTOS = 2000
"""Largest number of photos whose influence is computed; of more, whole groups are drawn."""

MOST_LEARNED = 20_000
"""Largest number of photos for a learning curve; of more, the run's own is shown."""

MOST_HARMFUL = 12
"""Photos that are named."""

LEAST_HARM = 0.002
"""Smallest share of the error of all other photos by which a harmful one raises it."""


@dataclass(frozen=True, kw_only=True)
class LabeledFeatures:
    """Photos of a run with the features that its backbone gives them.

    Attributes:
        rows: Of split.csv.
        features: ``(N, F)``.
    """

    rows: Sequence[SplitRow]
    features: FeatureRows

    def read(self, keys: Sequence[bytes]) -> torch.Tensor:
        """Returns the features of some rows; stands in for a feature cache."""
        return torch.from_numpy(self.features[np.array([int(key) for key in keys], np.intp)])


def outlook(
    photos: LabeledFeatures, labels: Sequence[str], config: Mapping[str, Any]
) -> tuple[LearningCurve | None, list[HarmfulPhoto]]:
    """Returns the learning curve and the most harmful photos; neither for too few photos.

    No curve either for more than `MOST_LEARNED` photos.

    Args:
        photos: Photos of one label each.
        labels: Of the run, in class order.
        config: Content of config.json.

    Raises:
        RunError: split.csv has a label that the run does not have.
    """
    rows = photos.rows
    index = {label: k for k, label in enumerate(labels)}
    if unknown := sorted({row.labels[0] for row in rows} - index.keys()):
        raise RunError(f"split.csv has the label {unknown[0]!r}, which labels.json does not have.")
    targets = np.array([index[row.labels[0]] for row in rows], np.int64)
    groups = np.array([row.group for row in rows])
    try:
        folds = _folds(rows)
    except ConfigError:
        return None, []
    if (folds >= 0).sum() < FEWEST_PHOTOS:
        return None, []
    rng = np.random.default_rng(0xC0DE)
    if len(rows) > MOST_LEARNED:
        return None, _harmful(photos, targets, groups, labels, rng)
    fitter = HeadFitter(
        ProbePhotos(
            features=cast(FeatureCache, photos),
            views=[[b"%d" % row for row in range(len(rows))]],
            targets=targets,
            folds=folds,
        ),
        labels=len(labels),
        objective=SingleLabel().objective(),
        device=torch.device("cpu"),
    )
    outputs = curve_outputs(fitter, _strength(config), groups, shares=SHARES, draws=DRAWS, rng=rng)
    curve = fit_learning_curve(outputs, rng=rng)
    return curve, _harmful(photos, targets, groups, labels, rng)


def _folds(rows: Sequence[SplitRow]) -> NDArray[np.int64]:
    """Returns the fold of each photo: that of the run, if it was cross-validated.

    Raises:
        ConfigError: No photo can be held out.
    """
    known = [row.fold for row in rows if row.fold is not None]
    if len(known) == len(rows):
        return np.array(known, np.int64)
    names, groups = [row.labels[0] for row in rows], [row.group for row in rows]
    return np.array(fold_groups(names, groups, folds=FOLDS, seed=0), np.int64)


def _strength(config: Mapping[str, Any]) -> Strength:
    if "lda_shrinkage" in config:
        return Shrinkage(float(config["lda_shrinkage"]))
    return float(config["l2_strength"])


def _harmful(
    photos: LabeledFeatures,
    targets: NDArray[np.int64],
    groups: NDArray[Any],
    labels: Sequence[str],
    rng: np.random.Generator,
) -> list[HarmfulPhoto]:
    chosen = np.arange(len(targets))
    if len(chosen) > MOST_PHOTOS:
        _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        order = rng.permutation(len(sizes))
        taken = order[np.cumsum(sizes[order]) <= MOST_PHOTOS]
        chosen = np.flatnonzero(np.isin(group_of, taken))
    features = photos.features[chosen].astype(np.float64)
    deviation = features.std(axis=0)
    varies = deviation > 1e-9
    standard = (features[:, varies] - features[:, varies].mean(axis=0)) / deviation[varies]
    influence, scores = group_influences(standard, targets[chosen], groups[chosen])
    error = float(((np.eye(scores.shape[1])[targets[chosen]] - scores) ** 2).sum())
    found: list[HarmfulPhoto] = []
    for place in np.argsort(-influence, kind="stable")[:MOST_HARMFUL]:
        harm = float(influence[place]) / error
        if harm < LEAST_HARM:
            break
        row, likeliest = photos.rows[chosen[place]], int(scores[place].argmax())
        looks_like = labels[likeliest] if labels[likeliest] != row.labels[0] else None
        found.append(
            HarmfulPhoto(path=row.path, label=row.labels[0], looks_like=looks_like, harm=harm)
        )
    return found
