"""Roll-up on two levels: are answers as precise as stated, and how many more are there?

    python benchmarks/roll_up.py --photos PHOTOS --data DATA --work FOLDER

The labels are ants and bees (insects), five birds, and ten classes of CIFAR-10 (animals and
vehicles). Each split holds a quarter of the near-duplicate groups out for testing and trains on
cached features as `finetune train` does. "Kept" counts the splits in which at least the claimed
share of the answers, each at its own level, was right among the test photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from unknown import Rows, cross_fitted
from unknown_features import FeatureSet, feature_sets

from finetune.evaluation.cross_fit import CrossFit, fit_detector, fit_precision
from finetune.evaluation.hierarchy import fit_hierarchy
from finetune.evaluation.status import statuses
from finetune.models.features import FeatureCache
from finetune.photos.split.split import fold_groups
from finetune.photos.taxonomy import Taxonomy, make_taxonomy
from finetune.tasks.data_split import FOLDS
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import HeadFitter, fit_head, strengths_of
from finetune.training.linear_probe.held_out import fit_distance

VEHICLES = (0, 1, 8, 9)
"""Airplane, automobile, ship and truck among the classes of CIFAR-10."""


def two_levels(sets: dict[str, FeatureSet]) -> tuple[FeatureSet, Taxonomy]:
    """Returns the photos of three sets and the tree of their labels."""
    features, targets, groups = [], [], []
    names: list[str] = []
    above: dict[str, list[str]] = {}
    start = 0
    for name, kind in (("hymenoptera", "insects"), ("birds5", "birds"), ("cifar10", "animals")):
        chosen = sets[name]
        targets.append(chosen.targets + len(names))
        for label in np.unique(chosen.targets).tolist():
            is_vehicle = name == "cifar10" and label in VEHICLES
            names.append(f"{name} {label}")
            above[names[-1]] = ["vehicles" if is_vehicle else kind]
        features.append(chosen.features)
        groups.append(chosen.groups + start)
        start += int(chosen.groups.max()) + 1
    taxonomy = make_taxonomy(names, above, ["kind"])
    assert taxonomy is not None
    together = FeatureSet(
        name="two levels",
        features=np.concatenate(features),
        targets=np.concatenate(targets),
        groups=np.concatenate(groups),
    )
    return together, taxonomy


def measure(chosen: FeatureSet, taxonomy: Taxonomy, seed: int) -> tuple[float, ...]:
    """Returns claim, test photos, sure labels, right ones, all answers, and right ones."""
    names = [str(target) for target in chosen.targets]
    test = np.array(fold_groups(names, chosen.groups.tolist(), folds=4, seed=seed)) == 0
    train, asked = chosen.take(np.flatnonzero(~test)), chosen.take(np.flatnonzero(test))
    labels = [str(target) for target in train.targets]
    folds = np.array(fold_groups(labels, train.groups.tolist(), folds=FOLDS, seed=seed), np.int64)
    photos = ProbePhotos(
        features=cast(FeatureCache, Rows(train.features)),
        views=[[b"%d" % row for row in range(len(labels))]],
        targets=train.targets,
        folds=folds,
    )
    fitter = HeadFitter(
        photos,
        labels=len(taxonomy.labels),
        objective=SingleLabel().objective(),
        device=torch.device("cpu"),
    )
    fitted = fit_head(fitter, strengths_of(None))
    rng = np.random.default_rng((seed, 7))
    known = cross_fitted(fitter, fitted, train.groups, rng)
    task = SingleLabel().calibrated(known.logits, known.targets)
    t = task.temperature
    distance = fit_distance(photos, fitted.learned, rng=rng)
    detector = fit_detector(CrossFit(known=known), temperature=t, distance=distance)

    def unknown(logits: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.bool_]:
        return detector.is_unknown(detector.scores(logits, features, temperature=t))

    assert known.distances is not None
    curve = fit_precision(known, temperature=t, detector=detector)
    tree = fit_hierarchy(
        taxonomy,
        task.probabilities(known.logits),
        known.targets,
        known.groups,
        labels=curve,
        unknown=unknown(known.logits, known.distances),
    )
    claim = curve.claim()
    head = fitter.head(fitted.solution)
    logits = head(torch.from_numpy(asked.features.astype(np.float32))).double().numpy()
    shares = task.probabilities(logits)
    status = np.array(
        statuses(
            shares.max(1),
            unknown(logits, distance(asked.features)),
            sure_from=claim.threshold if claim else None,
        )
    )
    sure = status == "sure"
    right = shares.argmax(1)[sure] == asked.targets[sure]
    precision = claim.precision if claim else 0.95
    rolled = [
        answer.label == taxonomy.paths[target][taxonomy.levels.index(answer.level)]
        for answer, target in zip(
            tree.roll_up(shares, status != "unsure", precision), asked.targets, strict=True
        )
        if answer is not None
    ]
    return (
        precision,
        len(status),
        int(sure.sum()),
        int(right.sum()),
        int(sure.sum()) + len(rolled),
        int(right.sum()) + sum(rolled),
    )


def main() -> None:
    """Prints a row for each split and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder to keep and reuse")
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets, _ = feature_sets(given.work, given.photos, given.data, given.model, given.weights)
    chosen, taxonomy = two_levels(sets)
    print("| split | claimed | labels sure | of these right | answers | of these right |")
    print("|---|---:|---:|---:|---:|---:|")
    rows = []
    for seed in range(given.splits):
        row = measure(chosen, taxonomy, seed)
        rows.append(row)
        claimed, photos, sure, right, answers, good = row
        print(
            f"| {seed} | {claimed:.0%} | {sure / photos:.0%} | {right / max(1, sure):.1%} | "
            f"{answers / photos:.0%} | {good / max(1, answers):.1%} |",
            flush=True,
        )
    claimed, photos, sure, right, answers, good = np.array(rows).T
    kept = int((good >= claimed * answers - 1e-9).sum())
    kept_labels = int((right >= claimed * sure - 1e-9).sum())
    print(
        f"| all | {claimed.mean():.1%} | {sure.sum() / photos.sum():.1%} | "
        f"{right.sum() / sure.sum():.1%} | {answers.sum() / photos.sum():.1%} | "
        f"{good.sum() / answers.sum():.1%} |\n\nKept: labels {kept_labels}, answers {kept} of "
        f"{len(rows)} splits; {answers.sum() / sure.sum():.2f} times as many answers."
    )


if __name__ == "__main__":
    main()
