"""Forecasts of learning curves: made from half of the photos, compared with all of them.

    python benchmarks/learning_curve.py --photos PHOTOS --data DATA --work FOLDER

Half of the near-duplicate groups of each label are drawn. A head is fitted on their cached features
as `finetune train` does, with its learning curve (one draw of each share) and that of a report
(three draws); each forecasts the cross-validated accuracy with twice the photos. A head is then
fitted on all photos, and its cross-validated accuracy is compared with the 95 % interval.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from unknown import Rows, together
from unknown_features import FeatureSet, feature_sets

from finetune.evaluation.learning_curve import SHARES, LearningCurve, fit_learning_curve
from finetune.models.features import FeatureCache
from finetune.photos.split.split import fold_groups
from finetune.prediction.outlook import DRAWS
from finetune.tasks.data_split import FOLDS
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import FittedHead, HeadFitter, fit_head, strengths_of
from finetune.training.linear_probe.learning_curve import TRAINING_SHARES, curve_outputs


def half_of(chosen: FeatureSet, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the photos of half of the groups of each label."""
    kept: list[NDArray[np.int64]] = []
    for label in np.unique(chosen.targets):
        groups = rng.permutation(np.unique(chosen.groups[chosen.targets == label]))
        kept.append(groups[: max(2, len(groups) // 2)])
    return np.flatnonzero(np.isin(chosen.groups, np.concatenate(kept)))


def fit(chosen: FeatureSet, seed: int) -> tuple[HeadFitter, FittedHead, float]:
    """Returns the fitter, the head, and its cross-validated accuracy."""
    names = [str(target) for target in chosen.targets]
    folds = fold_groups(names, chosen.groups.tolist(), folds=FOLDS, seed=seed)
    photos = ProbePhotos(
        features=cast(FeatureCache, Rows(chosen.features)),
        views=[[b"%d" % row for row in range(len(names))]],
        targets=chosen.targets,
        folds=np.array(folds, np.int64),
    )
    fitter = HeadFitter(
        photos,
        labels=len(np.unique(chosen.targets)),
        objective=SingleLabel().objective(),
        device=torch.device("cpu"),
    )
    fitted = fit_head(fitter, strengths_of(None))
    right = fitted.held_out.logits.argmax(1) == fitted.held_out.targets
    return fitter, fitted, float(right.mean())


def curve_of(
    fitter: HeadFitter,
    fitted: FittedHead,
    groups: NDArray[np.int64],
    shares: tuple[float, ...],
    draws: int,
) -> tuple[LearningCurve, float]:
    """Returns the learning curve and the seconds that it took."""
    started = time.process_time()
    rng = np.random.default_rng(0)
    complete = fitted.held_out.logits.argmax(axis=1)
    outputs = curve_outputs(
        fitter, fitted.strength, groups, shares=shares, draws=draws, rng=rng, complete=complete
    )
    return fit_learning_curve(outputs, rng=rng), time.process_time() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder to keep and reuse")
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--draws", type=int, default=4, help="halves of each set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets, _ = feature_sets(given.work, given.photos, given.data, given.model, given.weights)
    every = sets | {"all sets together": together(sets, 30)}
    print("| set | half | forecast (train) | (report) | all | within: train | report | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    totals = np.zeros(3, int)
    for name, chosen in every.items():
        rows: list[tuple[float, ...]] = []
        for seed in range(given.draws):
            half = chosen.take(half_of(chosen, np.random.default_rng((seed, 11))))
            fitter, fitted, now = fit(half, seed)
            curves = [
                curve_of(fitter, fitted, half.groups, shares, draws)
                for shares, draws in ((TRAINING_SHARES, 1), (SHARES, DRAWS))
            ]
            _, _, later = fit(chosen, seed)
            within = [curve.interval[0] <= later <= curve.interval[1] for curve, _ in curves]
            totals += [*within, True]
            rows.append(
                (now, curves[0][0].forecast, curves[1][0].forecast, later, *within, curves[0][1])
            )
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        cells = [f"{value:.1%}" for value in means[:4]]
        cells += [f"{round(value * len(rows))} of {len(rows)}" for value in means[4:6]]
        print(f"| {name} | {' | '.join(cells)} | {means[6]:.2f} |", flush=True)
    print(f"| all | | | | | {totals[0]} of {totals[2]} | {totals[1]} of {totals[2]} | |")


if __name__ == "__main__":
    main()
