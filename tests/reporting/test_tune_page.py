from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from finetune.experiments.tune.study import Trial, ranked
from finetune.experiments.tune.tune import Tuned
from finetune.reporting import tune_charts
from finetune.reporting.tune_page import write_tune_page
from finetune.runs.folder import RunFolder


def trial(number: int, score: float | None, state: str = "complete", **values: object) -> Trial:
    return Trial(
        number=number,
        state=state,
        score=score,
        log_loss=0.5 - number / 100 if state == "complete" else None,
        flags={"model": "resnet18", "mode": "head", "lr": 0.001, "augment": "<i>x.yaml"},
        values={"lr_factor": 0.1 * 10 ** (number % 3), "augment": "<i>x.yaml", **values},
        curve={1: 0.5, 2: score or 0.0},
        seconds=3.0,
        reason="ran <b>out</b> of memory" if state == "failed" else None,
    )


@pytest.fixture
def tuned(tmp_path: Path) -> Tuned:
    trials = (
        trial(0, 0.8),
        trial(1, 0.9),
        trial(2, 0.7, state="pruned"),
        trial(3, None, state="failed"),
        trial(4, 0.9, augment=None),
    )
    return Tuned(
        folder=tmp_path,
        study="garden",
        storage="sqlite:///x",
        trials=trials,
        best=tuple(ranked(trials)),
        importances={"lr_factor": 0.7, "augment": 0.3},
        best_file=tmp_path / "best.toml",
        final=RunFolder(tmp_path / "final"),
        final_metrics={"test": {"top1": 0.85, "photos": 40, "top1_interval": [0.71, 0.93]}},
        multi_label=False,
        interrupted=False,
    )


def charts_of(page: str) -> dict[str, dict[str, object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    charts: dict[str, dict[str, object]] = json.loads(found[1])["charts"]
    return charts


def test_the_page_says_what_was_found_and_asks_nothing_of_the_network(tuned: Tuned) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    body = page.partition("<main")[2].partition("<script")[0]
    text = re.sub("[ \n]+", " ", re.sub(r"<[^>]+>", " ", body))
    assert "Best on validation: trial 4 with 90.0\u202f% right." in text
    assert "The usual settings (trial 0) have 80.0\u202f%." in text
    assert (
        "The best of 3 is picked by its figure on validation, so that this figure flatters." in text
    )
    assert "is right on 85.0\u202f% of its 40 photos" in text.replace("  ", " ")
    assert "With only 3 complete trials this is a hint, no more." in text
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="https?:', body)


def test_text_from_outside_stays_text(tuned: Tuned) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    body = page.partition("<main")[2].partition("<script")[0]
    assert "<b>out</b>" not in body
    assert "&lt;b&gt;out&lt;/b&gt;" in body
    assert "<i>x" not in body


def test_each_value_that_varied_has_a_chart(tuned: Tuned) -> None:
    page = write_tune_page(tuned.folder / "tune.html", tuned).read_text(encoding="utf-8")
    assert charts_of(page).keys() == {"importances", "history", "curves", "value-0", "value-1"}


def test_a_search_without_a_complete_trial_has_a_page(tuned: Tuned) -> None:
    import dataclasses

    nothing = dataclasses.replace(
        tuned, trials=tuned.trials[2:4], best=(), importances={}, final=None, final_metrics=None
    )
    page = write_tune_page(tuned.folder / "tune.html", nothing).read_text(encoding="utf-8")
    assert "No trial is complete yet." in page
    assert charts_of(page).keys() == {"history", "curves"}


def test_the_best_so_far_never_falls(tuned: Tuned) -> None:
    best = tune_charts.history(tuned.trials)["data"][0]
    assert (best["x"], best["y"]) == ([0, 1, 4], [0.8, 0.9, 0.9])


def test_equal_scores_lie_within_their_axis() -> None:
    equal = [trial(0, 1.0), trial(1, 1.0)]
    for figure in (tune_charts.history(equal), tune_charts.by_value(equal, "lr_factor")):
        low, high = figure["layout"]["yaxis"]["range"]
        assert 0.9 < low < 1.0 < high < 1.05


def test_values_have_names_that_people_read() -> None:
    assert tune_charts.value_name("batch_size") == "batch size"
    assert tune_charts.value_name("lr_factor") == "learning rate (times the usual)"
    assert tune_charts.value_name("simple_cnn.first_width") == "first width of simple_cnn"


def test_words_and_few_numbers_are_categories_in_order(tuned: Tuned) -> None:
    by_words = tune_charts.by_value(tuned.trials, "augment")
    assert by_words["layout"]["xaxis"]["type"] == "category"
    assert by_words["data"][0]["x"] == ["&lt;i&gt;x.yaml", "&lt;i&gt;x.yaml", "none"]
    by_rate = tune_charts.by_value(tuned.trials, "lr_factor")
    assert by_rate["layout"]["xaxis"]["type"] == "log"
    sizes = [trial(0, 0.5, batch_size=64), trial(1, 0.6, batch_size=8)]
    by_size = tune_charts.by_value(sizes, "batch_size")
    assert by_size["layout"]["xaxis"]["categoryarray"] == ["8", "64"]


def test_scores_of_several_labels_a_photo_are_called_what_they_are(tuned: Tuned) -> None:
    metrics = {"test": {"mean_average_precision": 0.85, "exact_match": 0.6, "photos": 40}}
    several = dataclasses.replace(tuned, multi_label=True, final_metrics=metrics)
    page = write_tune_page(tuned.folder / "tune.html", several).read_text(encoding="utf-8")
    body = page.partition("<main")[2].partition("<script")[0]
    text = " ".join(re.sub(r"<[^>]+>", " ", body).split())
    assert "Best on validation: trial 4 with 90.0 % mean average precision." in text
    assert "has a mean average precision of 85.0 % on its 40 photos" in text
    assert "right" not in text.lower()
    titles = re.findall(r'"title": ?\{"text": ?"([^"]+)"', page)
    assert titles.count("Mean average precision (validation)") == 2
    assert not [title for title in titles if "Right" in title]
