from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import RunError
from finetune.experiments.cross_validate import (
    FoldPlan,
    figures_of,
    in_short,
    is_fold_study,
    read_study,
    resume_folds,
    study_of,
    to_json,
)
from finetune.experiments.fold_results import Fold, Pooled
from finetune.runs.folder import RunFolder

SCORES = (0.75, 0.5, 1.0)
FOLDS = [
    Fold(
        number=number,
        photos=4,
        score=score,
        balanced_accuracy=score,
        log_loss=0.5,
        best_epoch=number,
        seconds=1.25,
    )
    for number, score in enumerate(SCORES, start=1)
]
PLAN = FoldPlan(folds=3)


def pooled() -> Pooled:
    return Pooled(
        labels=("ant", "bee"),
        logits=np.zeros((12, 2), np.float32),
        targets=np.zeros(12, np.int64),
        metrics={"top1": 0.75},
        predictions=(),
    )


def test_a_whole_study_has_figures_and_the_time_of_all_folds(tmp_path: Path) -> None:
    study = study_of(RunFolder(tmp_path), PLAN, FOLDS, pooled=pooled())
    assert study.figures is not None
    assert study.figures.mean == statistics.fmean(SCORES)
    assert study.figures.spread == pytest.approx(statistics.stdev(SCORES))
    assert study.pooled == {"top1": 0.75}
    assert study.seconds == 3.75
    assert not study.interrupted
    short = in_short(study)
    assert (short["count"], short["scores"], short["mean"]) == (3, list(SCORES), 0.75)


def test_a_study_that_was_stopped_has_its_folds_and_no_figures(tmp_path: Path) -> None:
    study = study_of(RunFolder(tmp_path), PLAN, FOLDS[:1], interrupted=True)
    assert study.folds == (FOLDS[0],)
    assert study.interrupted
    assert figures_of(study)["figures"] is None
    assert in_short(study) == {"count": 3, "scores": [0.75]}


def test_a_study_is_plain_json(tmp_path: Path) -> None:
    study = study_of(RunFolder(tmp_path), PLAN, FOLDS, pooled=pooled())
    plain = json.loads(json.dumps(to_json(study)))
    assert plain["run"] == str(tmp_path)
    assert plain["plan"] == {"folds": 3, "final": True, "keep_models": False}
    assert [fold["number"] for fold in plain["folds"]] == [1, 2, 3]
    assert plain["figures"]["mean"] == statistics.fmean(fold["score"] for fold in plain["folds"])
    assert plain["pooled"] == {"top1": 0.75}
    assert (plain["test"], plain["seconds"], plain["interrupted"]) == (None, 3.75, False)


@pytest.mark.parametrize(
    "content", [None, "rubbish", "{}", "[]", '{"plan": {"fold": 3}}', '{"plan": null}']
)
def test_a_folder_without_a_readable_study_cannot_go_on(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "folds.json").write_text(content)
    assert is_fold_study(tmp_path) == (content is not None)
    for work in (read_study, resume_folds):
        with pytest.raises(RunError) as caught:
            work(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} has no readable folds.json: it is no cross-validation. "
            "Begin one with: finetune train PHOTOS --folds 5"
        )
