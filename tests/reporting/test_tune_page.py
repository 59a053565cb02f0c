from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from finetune.experiments.tune.search import TuneResult, describe_gain
from finetune.experiments.tune.study import importances, ranked, trials_of
from finetune.reporting.tune_page import parameter_name, write_tune_page
from finetune.runs.folder import RunFolder
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel

PARAMETERS = {
    "lr_factor": FloatDistribution(0.1, 10.0, log=True),
    "augment": CategoricalDistribution(["<i>x.yaml", None]),
    "batch_size": CategoricalDistribution([32]),
}


def add_trial(study: optuna.Study, score: float | None, state: TrialState) -> None:
    number = len(study.trials)
    params = {
        "lr_factor": 0.1 * 10 ** (number % 3),
        "augment": [None, "<i>x.yaml"][number % 2],
        "batch_size": 32,
    }
    attributes: dict[str, Any] = {
        "flags": {"model": "resnet18", "mode": "head", "lr": 0.001, "augment": "<i>x.yaml"},
        "seconds": 3.0,
    }
    if state == TrialState.COMPLETE:
        attributes |= {"log_loss": 0.5 - number / 100, "photos": 40}
    if state == TrialState.FAIL:
        attributes["reason"] = "ran <b>out</b> of memory"
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=score if state == TrialState.COMPLETE else None,
            params=params,
            distributions=PARAMETERS,
            intermediate_values={} if score is None else {1: 0.5, 2: score},
            user_attrs=attributes,
        )
    )


def result_of(
    folder: Path, trials: list[tuple[float | None, TrialState]], **fields: Any
) -> TuneResult:
    study = optuna.create_study(study_name="garden", direction="maximize")
    for score, state in trials:
        add_trial(study, score, state)
    found = trials_of(study)
    defaults: dict[str, Any] = {
        "folder": folder,
        "study": study,
        "storage": "sqlite:///x",
        "trials": found,
        "best": tuple(ranked(found)),
        "importances": importances(study),
        "best_file": folder / "best.toml",
        "final": None,
        "final_metrics": None,
        "task": SingleLabel(),
        "interrupted": False,
    }
    return TuneResult(**{**defaults, **fields})


@pytest.fixture
def tuned(tmp_path: Path) -> TuneResult:
    complete, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    return result_of(
        tmp_path,
        [
            (0.8, complete),
            (0.9, complete),
            (0.7, pruned),
            (None, failed),
            (0.9, complete),
            (0.85, complete),
        ],
        final=RunFolder(tmp_path / "final"),
        final_metrics={"test": {"top1": 0.85, "photos": 40, "top1_interval": [0.71, 0.93]}},
    )


def text_of(page: str) -> str:
    body = page.partition("<main")[2].partition("<script")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("\u202f", " ").split())


def charts_of(page: str) -> set[str]:
    return set(re.findall(r'id="chart-([^"]+)"', page))


def test_the_page_shows_the_result_and_works_offline(tuned: TuneResult) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    text = text_of(page)
    assert "Best on validation: trial 4 with 90.0 % accuracy." in text
    assert "The default settings (trial 0) have 80.0 %." in text
    assert "It is the best of 4 trials on the photos that chose it, so it is optimistic." in text
    assert "has an accuracy of 85.0 % on its 40 photos" in text
    assert "The difference from the default settings is 4 photos of 40. That may be chance." in text
    assert "Importance" not in text  # four trials cannot say
    assert "default-src 'none'" in page
    body = page.partition("<main")[2].partition("<script")[0]
    assert not re.findall(r'(?:src|href)="https?:', body)


def test_text_from_outside_is_escaped(tuned: TuneResult) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    body = page.partition("<main")[2].partition("<script")[0]
    assert "<b>out</b>" not in body
    assert "&lt;b&gt;out&lt;/b&gt;" in body
    assert "<i>x" not in body
    assert "&lt;i&gt;x.yaml" in body


def test_each_parameter_that_varied_has_a_chart(tuned: TuneResult) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    assert charts_of(page) == {"history", "curves", "value-0", "value-1"}
    for title in ("learning rate (times the default)", "augmentation"):
        assert f">{title}</text>" in page


def test_importances_are_shown_from_twenty_trials_on(tmp_path: Path) -> None:
    scores: list[tuple[float | None, TrialState]] = [
        (0.5 + k % 3 / 10, TrialState.COMPLETE) for k in range(20)
    ]
    page = write_tune_page(tmp_path / "tune.html", result_of(tmp_path, scores)).read_text("utf-8")
    assert '<th scope="row">learning rate (times the default)</th>' in page
    few = result_of(tmp_path, scores[:19])
    assert few.importances == {}


def test_a_difference_from_the_defaults_is_told_in_photos(tmp_path: Path) -> None:
    complete = TrialState.COMPLETE
    gain = describe_gain(result_of(tmp_path, [(0.80, complete), (0.825, complete)]))
    assert gain == "The difference from the default settings is 1 photo of 40. That may be chance."
    # Six of six: McNemar's exact p is 2 / 2**6 = 0.03.
    gain = describe_gain(result_of(tmp_path, [(0.80, complete), (0.95, complete)]))
    assert gain == "The difference from the default settings is 6 photos of 40."
    assert describe_gain(result_of(tmp_path, [(0.9, complete), (0.8, complete)])) == ""


def test_a_search_without_a_complete_trial_has_a_page(tmp_path: Path) -> None:
    nothing = result_of(tmp_path, [(0.7, TrialState.PRUNED), (None, TrialState.FAIL)])
    page = write_tune_page(tmp_path / "tune.html", nothing).read_text(encoding="utf-8")
    assert "No trial has finished yet." in page
    assert charts_of(page) == {"curves"}
    failed = result_of(tmp_path, [(None, TrialState.FAIL)])
    page = write_tune_page(tmp_path / "tune.html", failed).read_text(encoding="utf-8")
    assert charts_of(page) == set()


def test_equal_scores_lie_within_their_axis(tmp_path: Path) -> None:
    equal = result_of(tmp_path, [(1.0, TrialState.COMPLETE)] * 2)
    page = write_tune_page(tmp_path / "tune.html", equal).read_text(encoding="utf-8")
    for name in ("history", "value-0"):
        figure = page.partition(f'id="chart-{name}"')[2].partition("</figure>")[0]
        ticks = set(re.findall(r">([\d.]+)\u202f%</text>", figure))
        assert ticks
        assert max(map(float, ticks)) == 100


def test_parameters_have_plain_names() -> None:
    assert parameter_name("batch_size") == "batch size"
    assert parameter_name("lr_factor") == "learning rate (times the default)"
    assert parameter_name("simple_cnn.first_width") == "first width of simple_cnn"


def test_multi_label_scores_are_mean_average_precision(tuned: TuneResult) -> None:
    metrics = {"test": {"mean_average_precision": 0.85, "exact_match": 0.6, "photos": 40}}
    several = dataclasses.replace(tuned, task=MultiLabel(), final_metrics=metrics)
    page = write_tune_page(tuned.folder / "tune.html", several).read_text(encoding="utf-8")
    text = text_of(page)
    assert "Best on validation: trial 4 with 90.0 % mean average precision." in text
    assert "has a mean average precision of 85.0 % on its 40 photos" in text
    assert "right" not in text.lower()
    assert ">Mean average precision (validation)</text>" in page
    assert ">Accuracy (validation)</text>" not in page
