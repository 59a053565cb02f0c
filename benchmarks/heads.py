"""Heads on cached features: time, memory and minimum, beside scikit-learn's logistic regression.

    python benchmarks/heads.py [--only 2640x81] [--rounds 3]

Features are drawn: 1,280 non-negative numbers with a mean of their own for each label, as those of
a backbone after its last activation. Measured is what `finetune train` does with cached features in
head mode: six L2 strengths and two discriminants, cross-validated in five folds (up to 5,000
photos; above, one part of 15 % is held out), the final head, ten heads without some of the labels,
and the distances that tell unknown photos. scikit-learn searches
the same six strengths in five folds (`LogisticRegressionCV`), in turns, for the smallest problem
alone. The largest problem takes five minutes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from finetune.models.features import FeatureCache
from finetune.models.linear_solver import standardization
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import (
    L2_STRENGTHS,
    SHRINKAGES,
    FittedHead,
    HeadFitter,
    fit_head,
)
from finetune.training.linear_probe.held_out import cross_fit_heads
from finetune.training.resolve import MAX_CROSS_VALIDATED

WIDTH = 1280
PROBLEMS = ("2640x81", "10000x100", "100000x200")
COMPARED = "2640x81"


class Features:
    """Stands in for a feature cache on disk; reads as that does, not through a mapping."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """Returns the rows."""
        rows = np.empty((len(keys), WIDTH), np.float32)
        with self.file.open("rb") as stream:
            for row, key in zip(rows, keys, strict=True):
                os.preadv(stream.fileno(), [row], int(key) * row.nbytes)
        return torch.from_numpy(rows)


def draw(photos: int, labels: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns features ``(N, WIDTH)`` and targets ``(N,)``."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(photos) % labels)
    mixing = rng.normal(0, 1, (200, WIDTH)).astype(np.float32) / 14
    centers = rng.normal(0, 1, (labels, 200)).astype(np.float32)
    scale = rng.lognormal(-1, 1, WIDTH).astype(np.float32)
    features = np.empty((photos, WIDTH), np.float32)
    for start in range(0, photos, 4096):
        some = targets[start : start + 4096]
        noise = rng.normal(0, 1.6, (len(some), 200)).astype(np.float32)
        own = rng.normal(0, 0.5, (len(some), WIDTH)).astype(np.float32)
        features[start : start + 4096] = np.maximum((centers[some] + noise) @ mixing + own, 0)
    features *= scale
    return features, targets


def folds_of(photos: int) -> NDArray[np.int64]:
    """Returns the folds of a training of this size."""
    if photos <= MAX_CROSS_VALIDATED:
        return np.arange(photos) % 5
    # Training photos stand before those of the validation part.
    return np.where(np.arange(photos) < 0.85 * photos, -1, 0)


def ours(
    file: Path, targets: NDArray[np.int64], labels: int
) -> tuple[float, FittedHead, HeadFitter]:
    """Returns the seconds, the fitted head and its fitter."""
    photos = ProbePhotos(
        features=cast(FeatureCache, Features(file)),
        views=[[b"%d" % i for i in range(len(targets))]],
        targets=targets,
        folds=folds_of(len(targets)),
    )
    started = time.perf_counter()
    fitter = HeadFitter(
        photos, labels=labels, objective=SingleLabel().objective(), device=torch.device("cpu")
    )
    fitted = fit_head(fitter, L2_STRENGTHS)
    # Apart: these features are drawn as discriminants assume, and one would always be picked.
    for fold, shrinkage in itertools.product(
        np.unique(photos.folds[photos.folds >= 0]), SHRINKAGES
    ):
        fitter.fit(np.flatnonzero(photos.folds != fold), shrinkage)
    groups = np.arange(len(targets))
    cross_fit_heads(fitter, fitted, groups, photos.folds, rng=np.random.default_rng(0))
    return time.perf_counter() - started, fitted, fitter


def objective(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    x: NDArray[np.float64],
    targets: NDArray[np.int64],
    strength: float,
) -> float:
    """Returns the mean cross-entropy and penalty in float64, on standardized features."""
    logits = x @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    own = logits[np.arange(len(x)), targets] - np.log(np.exp(logits).sum(1))
    return float(-own.mean() + strength / 2 * np.square(weight).sum())


def excess(
    features: NDArray[np.float32], targets: NDArray[np.int64], fitted: FittedHead, head: Any
) -> float:
    """Returns by how much the objective is above scikit-learn's minimum, in nats."""
    assert isinstance(fitted.strength, float)
    # The same scale: the penalty depends on it.
    mean, scale = (part.double().numpy() for part in standardization(torch.from_numpy(features)))
    x = (features - mean) * scale
    c = 1 / (fitted.strength * len(x))
    minimum = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x, targets)
    theirs = objective(minimum.coef_, minimum.intercept_, x, targets, fitted.strength)
    weight = head.weight.double().numpy() / scale
    bias = head.bias.double().numpy() + head.weight.double().numpy() @ mean
    return objective(weight, bias, x, targets, fitted.strength) - theirs


def scikit_learns(features: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Returns the seconds of scikit-learn's search."""
    started = time.perf_counter()
    values = [1 / (strength * len(targets) * 0.8) for strength in L2_STRENGTHS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(Cs=values, cv=5, scoring="neg_log_loss", max_iter=1000),
        ).fit(features, targets)
    return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=PROBLEMS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| photos x labels | finetune | scikit-learn | ratio | above the minimum | memory |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in [options.only] if options.only else PROBLEMS:
        photos, labels = map(int, name.split("x"))
        features, targets = draw(photos, labels, seed=0)
        file = Path(tempfile.mkstemp()[1])
        features.tofile(file)
        compared = name == COMPARED
        if not compared:
            del features
        seconds, reference = [], []
        above = ""
        for _ in range(options.rounds if compared else 1):
            took, fitted, fitter = ours(file, targets, labels)
            seconds.append(took)
            if compared:
                reference.append(scikit_learns(features, targets))
        if compared:
            above = f"{excess(features, targets, fitted, fitter.head(fitted.solution)):.1e}"
        file.unlink()
        mine = statistics.median(seconds)
        theirs = statistics.median(reference) if reference else None
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| {photos:,} x {labels} | {mine:.1f} s | "
            + (f"{theirs:.1f} s | {mine / theirs:.2f}" if theirs else " | ")
            + f" | {above} | {memory:.1f} GB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
