"""A cross-validation as it is kept: what was asked for, and what its folds came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.experiments.cross_validation.results import Fold, FoldFigures, Pooled, fold_figures
from finetune.files import read_json
from finetune.runs.folder import RunFolder

STUDY_FILE = "folds.json"
"""Beside the folds: the photos, settings and plan, and in the end the figures."""


@dataclass(frozen=True, kw_only=True)
class FoldPlan:
    """What a cross-validation does.

    Attributes:
        folds: In how many parts the photos are held out in turn.
        final: Whether a last network is trained, no photo put aside for a test, to be used.
        keep_models: Whether the networks of the folds are kept, beside their figures.
    """

    folds: int = 5
    final: bool = True
    keep_models: bool = False


@dataclass(frozen=True, kw_only=True)
class FoldStudy:
    """What a cross-validation came to.

    Attributes:
        folder: Holds everything; a run, once the final network is there.
        plan: What was asked for.
        folds: Those that are done, in order.
        figures: Mean, spread and interval of their scores; None before the last fold is done.
        pooled: Metrics of all held-out photos together, as `evaluate_logits` has them; None before
            the last fold is done.
        seconds: Of all trainings.
        test: The final network's metrics on the collection's own test folder, where it has one.
        interrupted: Whether it was stopped before it was done.
    """

    folder: RunFolder
    plan: FoldPlan
    folds: tuple[Fold, ...]
    figures: FoldFigures | None
    pooled: Mapping[str, Any] | None
    seconds: float
    test: Mapping[str, Any] | None
    interrupted: bool

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels; scores are then mean average precision."""
        return any(fold.multi_label for fold in self.folds)


def is_fold_study(path: Path) -> bool:
    """Returns whether a folder is that of a cross-validation."""
    return (path / STUDY_FILE).is_file()


def read_study(path: Path) -> dict[str, Any]:
    """Returns what is kept of a cross-validation.

    Raises:
        RunError: The folder is not that of one.
    """
    try:
        study: dict[str, Any] = read_json(path / STUDY_FILE)
        FoldPlan(**study["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} has no readable {STUDY_FILE}: it is no cross-validation. "
            "Begin one with: finetune train PHOTOS --folds 5"
        ) from error
    return study


def study_of(
    folder: RunFolder,
    plan: FoldPlan,
    done: Sequence[Fold],
    *,
    pooled: Pooled | None = None,
    interrupted: bool = False,
) -> FoldStudy:
    """Returns what the folds that are done came to."""
    return FoldStudy(
        folder=folder,
        plan=plan,
        folds=tuple(done),
        figures=fold_figures(done) if pooled else None,
        pooled=pooled.metrics if pooled else None,
        seconds=sum(fold.seconds for fold in done),
        test=None,
        interrupted=interrupted,
    )


def figures_of(study: FoldStudy) -> dict[str, Any]:
    """Returns what folds.json keeps of the folds."""
    return {
        "folds": [dataclasses.asdict(fold) for fold in study.folds],
        "figures": dataclasses.asdict(study.figures) if study.figures else None,
    }


def in_short(study: FoldStudy) -> dict[str, Any]:
    """Returns what the final network's config.json keeps of the folds."""
    figures = dataclasses.asdict(study.figures) if study.figures else {}
    return {"count": study.plan.folds, "scores": [fold.score for fold in study.folds], **figures}


def to_json(study: FoldStudy) -> dict[str, Any]:
    """Returns a study as plain JSON values."""
    return {
        "run": str(study.folder.path),
        "plan": dataclasses.asdict(study.plan),
        **figures_of(study),
        "pooled": study.pooled,
        "test": study.test,
        "seconds": round(study.seconds, 3),
        "interrupted": study.interrupted,
    }
