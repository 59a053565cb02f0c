"""Scores for unknown photos, their false alarms, and the precision of sure labels.

    python benchmarks/unknown.py --photos ../shared/photos --data ../shared/data --work /tmp/unknown

Heads are fitted on cached features as `finetune train` fits them: the strength is chosen by five
folds, and photos and labels are held out in turn. Each split holds a quarter of the near-duplicate
groups out for testing, and labels (1 of 3 or 4, 2 of 5 to 8, 3 of more; none of 2) as strangers.

The first table compares scores over all sets: AUROC and detection at a threshold with 5 % false
alarms, on labels left out, on the other sets and 480 mixed photos, and on noise, text and blank
frames. The second has the false alarms of the chosen score by set. The third has the claimed and
the measured precision of sure labels: "holds" counts the splits in which the share of right labels
among the sure test photos is at least the claim.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from unknown_features import FeatureSet, feature_sets

from finetune.evaluation.cross_fit import CrossFit, HeldOutLogits, fit_detector, fit_precision
from finetune.evaluation.out_of_distribution import (
    conformal_quantile,
    log_odds,
    needed_photos,
    ood_score,
)
from finetune.evaluation.probabilities import Floats, softmax
from finetune.evaluation.status import statuses
from finetune.models.features import FeatureCache
from finetune.photos.split.split import fold_groups
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import (
    FittedHead,
    HeadFitter,
    fit_head,
    strengths_of,
)
from finetune.training.linear_probe.held_out import fit_distance

KINDS = ("labels left out", "other photos", "noise, text, blank")


class Rows:
    """Stands in for a feature cache: keys are row numbers."""

    def __init__(self, features: Floats) -> None:
        self.features = torch.from_numpy(features.astype(np.float32))

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """Returns the rows."""
        return self.features[[int(key) for key in keys]]


@dataclass(frozen=True)
class Residual:
    """Length of what the principal subspace leaves, of ViM (Wang et al. 2022).

    Its dimensions are those of the relative distance, so that the same photos suffice.
    """

    mean: Floats
    scale: Floats
    axes: Floats

    def __call__(self, features: Floats) -> Floats:
        """Returns minus the length ``(N,)`` of features ``(N, F)``."""
        values = (features - self.mean) * self.scale
        inside = values @ self.axes
        return -np.sqrt(np.maximum((values**2).sum(1) - (inside**2).sum(1), 0))


def fit_residual(features: Floats) -> Residual:
    """Returns the residual of training photos ``(N, F)``."""
    mean, deviation = features.mean(0), features.std(0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    count = min(64, max(2, len(features) // 4))
    _, _, axes = np.linalg.svd((features - mean) * scale, full_matrices=False)
    return Residual(mean, scale, axes[:count].T)


@dataclass
class Found:
    """Results of the splits of one set."""

    alarms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    auroc: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    detected: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    claims: list[tuple[float, int, int, int, float]] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    no_claim: int = 0


def scores_of(
    group: HeldOutLogits, residual: Floats, known: HeldOutLogits, known_residual: Floats, t: float
) -> dict[str, Floats]:
    """Returns the scores of photos by name; mixtures count spreads on known photos."""

    def parts(one: HeldOutLogits, rest: Floats) -> dict[str, Floats]:
        assert one.distances is not None
        return {
            "log odds": log_odds(one.logits, temperature=t),
            "energy": ood_score(one.logits, score="energy", temperature=t),
            "relative Mahalanobis": one.distances[:, 0],
            "neighbors": one.distances[:, 1],
            "residual": rest,
        }

    spread = {
        name: max(values.std(), 1e-9) for name, values in parts(known, known_residual).items()
    }
    found = parts(group, residual)
    mixed = {
        "log odds + relative Mahalanobis (before)": ("log odds", "relative Mahalanobis"),
        "ViM (energy + residual)": ("energy", "residual"),
        "log odds + relative Mahalanobis + neighbors (now)": (
            "log odds",
            "relative Mahalanobis",
            "neighbors",
        ),
    }
    total = {
        name: np.sum([found[part] / spread[part] for part in names], axis=0)
        for name, names in mixed.items()
    }
    del found["residual"]
    return found | total


def auroc(known: Floats, others: Floats) -> float:
    """Returns the probability that a known photo has the higher score."""
    order = np.sort(others)
    below = np.searchsorted(order, known, side="left") + np.searchsorted(order, known, side="right")
    return float(below.mean() / 2 / len(others))


def cross_fitted(
    fitter: HeadFitter, fitted: FittedHead, groups: NDArray[np.int64], rng: np.random.Generator
) -> HeldOutLogits:
    """Returns logits and distances of photos by the head and the distance without their fold."""
    photos = fitter.photos
    parts = []
    for fold in np.unique(photos.folds[photos.folds >= 0]).tolist():
        held, learned = np.flatnonzero(photos.folds == fold), np.flatnonzero(photos.folds != fold)
        distance = fit_distance(photos, learned, rng=rng)
        logits = fitter.logits(fitted.of_folds[fold], held)
        parts.append((held, logits.astype(np.float64), photos.map(held, distance)))
    rows, logits, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    return HeldOutLogits(
        logits=logits, targets=photos.targets[rows], groups=groups[rows], distances=distances
    )


def measure(
    chosen: FeatureSet,
    strangers: dict[str, Floats],
    found: Found,
    *,
    seed: int,
    per_label: int | None,
) -> None:
    """Adds the results of one split."""
    rng = np.random.default_rng((seed, 7))
    labels = np.unique(chosen.targets)
    count = 0 if len(labels) < 3 else 1 if len(labels) < 5 else 2 if len(labels) < 9 else 3
    left_out = np.isin(chosen.targets, rng.permutation(labels)[:count])
    known = chosen.take(np.flatnonzero(~left_out))
    names = [str(target) for target in known.targets]
    test = np.array(fold_groups(names, known.groups.tolist(), folds=4, seed=seed)) == 0
    learned = np.flatnonzero(~test)
    if per_label is not None:
        order = rng.permutation(learned)
        learned = np.sort(
            np.concatenate(
                [order[known.targets[order] == c][:per_label] for c in np.unique(known.targets)]
            )
        )
    train, asked = known.take(learned), known.take(np.flatnonzero(test))
    folds = fold_groups(
        [str(target) for target in train.targets], train.groups.tolist(), folds=5, seed=seed
    )
    photos = ProbePhotos(
        features=cast(FeatureCache, Rows(train.features)),
        views=[[b"%d" % row for row in range(len(train.targets))]],
        targets=train.targets,
        folds=np.array(folds, np.int64),
    )
    classes = len(np.unique(train.targets))
    fitter = HeadFitter(
        photos, labels=classes, objective=SingleLabel().objective(), device=torch.device("cpu")
    )
    fitted = fit_head(fitter, strengths_of(None))
    crossfit = cross_fitted(fitter, fitted, train.groups, rng)
    rest = np.zeros(len(photos.folds))
    held = []
    for fold in np.unique(photos.folds[photos.folds >= 0]):
        rows = np.flatnonzero(photos.folds == fold)
        rest[rows] = fit_residual(train.features[photos.folds != fold])(train.features[rows])
        held.append(rows)
    crossed_residual = rest[np.concatenate(held)]
    task = SingleLabel().calibrated(crossfit.logits, crossfit.targets)
    t = task.temperature
    distance = fit_distance(photos, fitted.learned, rng=rng)
    detector = fit_detector(CrossFit(known=crossfit), temperature=t, distance=distance)
    head, residual = fitter.head(fitted.solution), fit_residual(train.features)

    def predict(features: Floats) -> HeldOutLogits:
        zeros = np.zeros(len(features), np.int64)
        logits = head(torch.from_numpy(features.astype(np.float32))).double().numpy()
        return HeldOutLogits(
            logits=logits, targets=zeros, groups=zeros, distances=distance(features)
        )

    others = dict(strangers)
    if count and strangers:
        others["labels left out"] = chosen.features[left_out]
    crossed = scores_of(crossfit, crossed_residual, crossfit, crossed_residual, t)
    predicted = predict(asked.features)
    own = scores_of(predicted, residual(asked.features), crossfit, crossed_residual, t)
    limits = {}
    for name, values in crossed.items():
        limit = conformal_quantile(np.sort(values), 0.05)
        limits[name] = -np.inf if limit is None else limit
        found.alarms[name].append(float((own[name] < limits[name]).mean()))
    for kind, features in others.items():
        theirs = scores_of(predict(features), residual(features), crossfit, crossed_residual, t)
        for name, values in theirs.items():
            found.auroc[name, kind].append(auroc(own[name], values))
            found.detected[name, kind].append(float((values < limits[name]).mean()))
    probabilities = softmax(predicted.logits, temperature=t)
    right = probabilities.argmax(1) == asked.targets
    found.accuracy.append(float(right.mean()))
    claim = fit_precision(crossfit, temperature=t, detector=detector).claim()
    if claim is None:
        found.no_claim += 1
        return
    odd = detector.is_unknown(detector.scores(predicted.logits, predicted.distances, temperature=t))
    status = np.array(statuses(probabilities.max(1), odd, sure_from=claim.threshold))
    sure = status == "sure"
    found.claims.append(
        (claim.precision, int(sure.sum()), int(right[sure].sum()), len(sure), claim.coverage)
    )


def show_scores(results: dict[str, Found]) -> None:
    """Prints the first table: means over the sets."""
    print("| score | false alarms | " + " | ".join(f"{k}: AUROC | detected" for k in KINDS) + " |")
    print("|---|---:|" + "---:|---:|" * len(KINDS))
    for name in next(iter(results.values())).alarms:
        cells = [
            f"{statistics.mean(statistics.mean(r.alarms[name]) for r in results.values()):.1%}"
        ]
        for kind in KINDS:
            for table in ("auroc", "detected"):
                values = [
                    statistics.mean(getattr(r, table)[name, kind])
                    for r in results.values()
                    if (name, kind) in getattr(r, table)
                ]
                cells.append(f"{statistics.mean(values):.1%}" if values else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def show_sets(results: dict[str, Found]) -> None:
    """Prints the second table."""
    name = next(reversed(next(iter(results.values())).alarms))
    print("\n| set | right | false alarms | " + " | ".join(f"{k} detected" for k in KINDS) + " |")
    print("|---|---:|---:|" + "---:|" * len(KINDS))
    for label, found in results.items():
        cells = [
            f"{statistics.mean(found.accuracy):.1%}",
            f"{statistics.mean(found.alarms[name]):.1%}",
        ]
        for kind in KINDS:
            values = found.detected.get((name, kind))
            cells.append(f"{statistics.mean(values):.0%}" if values else "")
        print(f"| {label} | " + " | ".join(cells) + " |")


def show_claims(results: dict[str, Found]) -> None:
    """Prints the third table."""
    print("\n| set | claimed | sure labels right, pooled | holds | sure of | no claim |")
    print("|---|---:|---:|---:|---:|---:|")
    for label, found in results.items():
        if not found.claims:
            print(f"| {label} | | | | | {found.no_claim} |")
            continue
        claimed, sure, right, total, _ = map(np.array, zip(*found.claims, strict=True))
        holds = int((right >= claimed * sure - 1e-9).sum())
        print(
            f"| {label} | {claimed.mean():.1%} | {right.sum() / max(1, sure.sum()):.1%} | "
            f"{holds} of {len(claimed)} | {sure.sum() / total.sum():.0%} | {found.no_claim} |"
        )


def together(sets: dict[str, FeatureSet], per_label: int) -> FeatureSet:
    """Returns some photos of each label of all sets in one set."""
    features, targets, groups = [], [], []
    labels = start = 0
    for chosen in sets.values():
        for label in np.unique(chosen.targets):
            rows = np.flatnonzero(chosen.targets == label)[:per_label]
            features.append(chosen.features[rows])
            targets.append(np.full(len(rows), labels))
            groups.append(chosen.groups[rows] + start)
            labels += 1
        start += int(chosen.groups.max()) + 1
    return FeatureSet(
        name="all sets together",
        features=np.concatenate(features),
        targets=np.concatenate(targets),
        groups=np.concatenate(groups),
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder to keep and reuse")
    parser.add_argument("--model", default="tf_efficientnet_lite2")
    parser.add_argument("--weights")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--per-label", type=int, help="training photos of a label; default: all")
    parser.add_argument("--only", help="names of sets, separated by commas")
    parser.add_argument("--no-strangers", action="store_true", help="false alarms and claims only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets, strangers = feature_sets(given.work, given.photos, given.data, given.model, given.weights)
    synthetic = np.concatenate([strangers[kind].features for kind in ("noise", "text", "blank")])
    every = sets | {"all sets together": together(sets, 30)}
    chosen = given.only.split(",") if given.only else list(every)
    print(
        f"Backbone {given.model}, {given.splits} splits; 5 % needs {needed_photos(0.05)} photos.\n"
    )
    results = {}
    for name in chosen:
        found = results[name] = Found()
        mixed = [strangers["unlabelled"].features]
        if name in sets:
            mixed += [other.features[::10] for key, other in sets.items() if key != name]
        others = {"other photos": np.concatenate(mixed), "noise, text, blank": synthetic}
        others = {} if given.no_strangers else others
        for seed in range(given.splits):
            measure(every[name], others, found, seed=seed, per_label=given.per_label)
        print(f"{name} done", file=sys.stderr, flush=True)
    if not given.no_strangers:
        show_scores(results)
    show_sets(results)
    show_claims(results)


if __name__ == "__main__":
    main()
