from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from finetune.errors import RunError
from finetune.evaluation.predictions import LabelSet, Prediction
from finetune.reporting.compare import (
    compare,
    contender,
    differing_settings,
)
from finetune.reporting.comparison import Contender
from finetune.reporting.comparison_page import write_comparison
from finetune.reporting.run_record import RunRecord, read_run
from finetune.tasks.multi_label import NAME

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun, OpenPage, ReadData


@pytest.fixture(scope="module")
def two_runs(two_run_folders: tuple[MadeRun, MadeRun]) -> list[Contender]:
    return [contender(run.path.name, read_run(run.path)) for run in two_run_folders]


def record(name: str = "run", labels: Sequence[str] = ("a", "b"), **config: Any) -> RunRecord:
    return RunRecord(
        name=name,
        config=config,
        labels=tuple(labels),
        metrics={},
        predictions=(),
        split=(),
        epochs=(),
        calibration={},
        parameters=None,
        size_bytes=None,
    )


def predict(
    path: str, label: str, predicted: str, probability: float = 0.8, digest: str = ""
) -> Prediction:
    return Prediction(
        path=path,
        digest=digest or path,
        part="test",
        label=label,
        ranked=((predicted, probability),),
    )


def runs(
    first: list[Prediction],
    second: list[Prediction],
    *,
    part: str = "test",
    labels: Sequence[Sequence[str]] = (("a", "b"), ("a", "b")),
) -> list[Contender]:
    return [
        Contender(name=name, record=record(name, known), part=part, predictions=rows)
        for name, rows, known in zip(("one", "two"), (first, second), labels, strict=True)
    ]


def test_photos_are_sorted_by_who_is_right() -> None:
    first = [predict(p, "a", w) for p, w in zip("12345", "aabba", strict=True)]
    second = [predict(p, "a", w) for p, w in zip("12345", "abaaa", strict=True)]
    pair = compare(runs(first, second)).pairs[0]
    assert (pair.both, pair.neither) == (2, 0)
    assert [d.path for d in pair.only_first] == ["2"]
    assert sorted(d.path for d in pair.only_second) == ["3", "4"]
    assert pair.difference == pytest.approx(1 / 5)
    assert pair.p_value == 1.0
    assert pair.verdict == (
        "two is right on 20.0 more of 100 photos than one, which may be chance (p = 1)."
    )


def test_a_clear_difference_is_significant() -> None:
    first = [predict(str(k), "a", "b" if k < 12 else "a") for k in range(40)]
    second = [predict(str(k), "a", "a") for k in range(40)]
    pair = compare(runs(first, second)).pairs[0]
    assert pair.p_value == pytest.approx(2 / 2**12)
    assert "two is right on 30.0 more of 100 photos than one, which is significant" in pair.verdict
    low, high = pair.difference_interval
    assert 0 < low < 0.3 < high
    said_so = f"The difference lies between {low * 100:+.1f} and {high * 100:+.1f} of 100 photos"
    assert pair.reach == f"{said_so} (95 % interval)."
    other_way = compare(runs(second, first)).pairs[0]
    assert other_way.verdict.startswith("one is right on 30.0 more")
    # Counted for the better one, as the sentence before it.
    assert other_way.difference_interval[1] < 0
    assert other_way.reach == pair.reach


def test_agreement_has_a_verdict_of_its_own() -> None:
    rows = [predict("1", "a", "a"), predict("2", "a", "b")]
    assert compare(runs(rows, rows)).pairs[0].verdict == (
        "one and two are right on the same photos."
    )
    swapped = [predict("1", "a", "b"), predict("2", "a", "a")]
    assert compare(runs(rows, swapped)).pairs[0].verdict == "one and two are right equally often."


def test_disagreements_come_surest_first() -> None:
    first = [predict("x", "a", "b", 0.6), predict("y", "a", "b", 0.7)]
    second = [predict("x", "a", "a", 0.55), predict("y", "a", "a", 0.95)]
    pair = compare(runs(first, second)).pairs[0]
    assert [d.path for d in pair.only_second] == ["y", "x"]
    assert pair.only_second[0].first_probability == 0.7


def test_labels_come_with_the_greatest_loss_first() -> None:
    first = [
        predict("1", "a", "a"),
        predict("2", "b", "a"),
        predict("3", "b", "b"),
        predict("4", "c", "c"),
    ]
    second = [
        predict("1", "a", "b"),
        predict("2", "b", "b"),
        predict("3", "b", "b"),
        predict("4", "c", "c"),
    ]
    labels = compare(runs(first, second)).pairs[0].labels
    assert [(row.label, row.photos, row.change) for row in labels] == [
        ("a", 1, -1.0),
        ("c", 1, 0.0),
        ("b", 2, 0.5),
    ]


def test_the_change_of_a_label_has_the_interval_of_agresti_and_min() -> None:
    # 10 photos: 4 gained, 1 lost.
    first = [predict(str(k), "a", "a" if k < 6 else "b") for k in range(10)]
    second = [predict(str(k), "a", "b" if k == 0 else "a") for k in range(10)]
    (row,) = compare(runs(first, second)).pairs[0].labels
    assert row.change == pytest.approx(0.3)
    cells = np.array([5, 4, 1, 0]) + 0.5  # both, only second, only first, neither
    size = cells.sum()
    middle = (cells[1] - cells[2]) / size
    error = np.sqrt((cells[1] + cells[2]) / size - middle**2) / np.sqrt(size)
    np.testing.assert_allclose(
        row.interval, middle + np.array([-1, 1]) * 1.959964 * error, rtol=1e-6
    )
    assert row.clear == (row.interval[0] > 0)


def test_chosen_photos_are_followed_in_the_order_asked() -> None:
    first = [predict("1", "a", "b"), predict("2", "a", "a"), predict("3", "b", "a", 0.9)]
    second = [predict("1", "a", "a"), predict("2", "a", "a"), predict("3", "b", "a")]
    found = compare(runs(first, second))
    assert [(f.path, f.correct) for f in found.followed] == [
        ("3", (False, False)),
        ("1", (False, True)),
    ]
    chosen = compare(runs(first, second), follow=["2", "1", "2"]).followed
    assert [f.path for f in chosen] == ["2", "1"]
    assert chosen[1].answers == ((("b", 0.8),), (("a", 0.8),))
    with pytest.raises(RunError, match="--follow: 9 is no photo that all runs predicted"):
        compare(runs(first, second), follow=["9"])


def test_a_run_of_several_labels_is_compared_on_the_photos_of_one() -> None:
    single = [predict("1", "a", "a"), predict("2", "b", "a"), predict("3", "a", "a")]
    several = [
        Prediction(
            path=path,
            digest=path,
            part="test",
            label=label,
            ranked=ranked,
            label_set=LabelSet(labels=("a",), probability=0.5),
        )
        for path, label, ranked in (
            ("1", "a", (("a", 0.9), ("b", 0.2))),
            ("2", "b", (("b", 0.4), ("a", 0.3))),  # no label reaches its threshold; b is likeliest
            ("3", "a|b", (("a", 0.9), ("b", 0.8))),
        )
    ]
    compared = [
        Contender(name="one", record=record(), part="test", predictions=single),
        Contender(
            name="many",
            record=record(task=NAME),
            part="test",
            predictions=several,
        ),
    ]
    found = compare(compared)
    assert found.photos == 2
    assert [row.top1 for row in found.rows] == [0.5, 1.0]
    assert found.notes[0] == (
        "many may give a photo several labels. Compared are the photos with one label "
        "(1 prediction left out), by the likeliest label."
    )


def test_crops_of_one_run_alone_are_noted_and_are_a_setting() -> None:
    rows = [predict("1", "a", "a")]
    compared = runs(rows, rows)
    pixels: list[dict[str, Any]] = [
        {"size": 224, "crop_policy": None},
        {"size": 224, "crop_policy": {"method": "saliency", "model": "m"}},
    ]
    compared = [
        dataclasses.replace(run, record=dataclasses.replace(run.record, preprocessing=content))
        for run, content in zip(compared, pixels, strict=True)
    ]
    found = compare(compared)
    assert found.settings == (("photos.crop_policy", ("none", "saliency")),)
    assert found.notes == ("two looks at crops of the photos, the others at whole photos.",)


def test_photos_are_matched_by_content_wherever_they_lie() -> None:
    first = [
        predict("old/1.jpg", "a", "a", digest="d1"),
        predict("old/2.jpg", "a", "b", digest="d2"),
    ]
    second = [
        predict("new/2.jpg", "a", "b", digest="d2"),
        predict("new/1.jpg", "a", "a", digest="d1"),
    ]
    found = compare(runs(first, second))
    assert found.photos == 2
    assert found.pairs[0].both == 1
    assert found.notes == ()


def test_copies_of_one_photo_are_matched_one_to_one() -> None:
    rows = [predict("1", "a", "a", digest="d"), predict("2", "a", "b", digest="d")]
    found = compare(runs(rows, rows))
    assert found.photos == 2
    assert (found.pairs[0].both, found.pairs[0].neither) == (1, 1)


def test_different_test_photos_are_noted_and_only_the_shared_compared() -> None:
    first = [predict(str(k), "a", "a") for k in range(5)]
    second = [predict(str(k), "a", "b") for k in range(3, 9)]
    found = compare(runs(first, second))
    assert found.photos == 2
    assert found.notes == (
        "The runs were not evaluated on the same photos (one: 5 photos, two: 6 photos). "
        "Compared are the 2 photos that all of them predicted.",
    )


def test_no_shared_photo_is_refused() -> None:
    with pytest.raises(RunError) as caught:
        compare(runs([predict("1", "a", "a")], [predict("2", "a", "a"), predict("3", "a", "a")]))
    assert str(caught.value) == (
        "These runs share no photo that all were evaluated on "
        "(one on 1 test photo, two on 2 test photos). Compare them on one folder with --on PHOTOS."
    )


def test_one_run_alone_is_refused() -> None:
    with pytest.raises(RunError, match="A comparison needs two runs or more"):
        compare(runs([], [])[:1])


def test_a_label_unknown_to_a_run_is_noted() -> None:
    rows = [predict("1", "a", "a"), predict("2", "owl", "a")]
    found = compare(runs(rows, rows, labels=(("a", "owl"), ("a", "b"))))
    assert found.notes == ("two was not trained on “owl”: all of their photos are wrong.",)


def test_validation_photos_are_noted() -> None:
    rows = [predict("1", "a", "a")]
    assert compare(runs(rows, rows, part="validation")).notes[0] == (
        "one is evaluated on its validation photos, which were used to choose its best epoch: "
        "its accuracy is too high."
    )


def test_settings_that_differ_are_found_wherever_they_are_nested() -> None:
    one = {
        "model": "resnet50",
        "settings": {"training": {"lr": 0.1, "epochs": 3}, "model": {"model": None}},
    }
    two = {
        "model": "resnet18",
        "settings": {"training": {"lr": 0.2, "epochs": 3}, "model": {"model": "resnet18"}},
        "versions": {"timm": "1"},
    }
    assert dict(differing_settings([one, two])) == {
        "model": ("resnet50", "resnet18"),
        "training.lr": (0.1, 0.2),
        "version of timm": (None, "1"),
    }
    assert differing_settings([one, one]) == []


def test_figures_of_real_runs_are_those_of_their_metrics(two_runs: list[Contender]) -> None:
    found = compare(two_runs)
    for row, run in zip(found.rows, two_runs, strict=True):
        metrics = run.record.metrics["test"]
        assert row.top1 == metrics["top1"]
        assert list(row.top1_interval) == metrics["top1_interval"]
        assert row.balanced_accuracy == pytest.approx(metrics["balanced_accuracy"], abs=1e-12)
        assert row.ece == pytest.approx(metrics["ece"], abs=1e-9)
        assert row.training_seconds == 50.4
        assert row.images_per_second == 412.0
        assert row.parameters == 6 * 16  # running means do not count
        assert row.size_bytes is not None
        assert row.size_bytes > 0
        assert row.best_epoch == 12
        assert row.best_seconds == pytest.approx(12 * 4.2)
        ranks = [
            [label for label, _ in p.ranked].index(p.label) + 1 if p.label in dict(p.ranked) else 6
            for p in run.predictions
        ]
        assert (row.second, row.lower) == (ranks.count(2), sum(rank > 2 for rank in ranks))
    assert found.settings == (("training.lr", (0.003, 0.01)),)
    right = [[p.correct for p in run.predictions] for run in two_runs]
    assert found.pairs[0].difference == pytest.approx(np.mean(right[1]) - np.mean(right[0]))


def test_a_comparison_is_json(two_runs: list[Contender]) -> None:
    content = json.loads(json.dumps(compare(two_runs).to_dict(), allow_nan=False))
    assert content["settings"] == {"training.lr": [0.003, 0.01]}
    assert content["pairs"][0]["verdict"].endswith(").")
    assert len(content["rows"]) == 2


def test_page_holds_the_table_the_curves_and_the_photos(
    two_runs: list[Contender], tmp_path: Path, read_data: ReadData
) -> None:
    found = compare(two_runs)
    root = two_runs[0].record.config["photos"]
    path = write_comparison(
        tmp_path / "c.html", found, two_runs, photos_root=tmp_path / root, max_photos=6
    )
    text = path.read_text("utf-8")
    assert found.pairs[0].verdict in text
    assert "training.lr" in text
    data = read_data(path)
    sides = data["pairs"][0]["sides"]
    assert [len(side) for side in sides] == [
        len(found.pairs[0].only_first),
        len(found.pairs[0].only_second),
    ]
    assert 0 < len(data["thumbnails"]) <= 6
    for name in ("accuracy_epochs", "accuracy_seconds", "loss_epochs", "loss_seconds"):
        figure = text.partition(f'id="chart-{name}"')[2].partition("</figure>")[0]
        assert ">one</text>" in figure
        assert ">two</text>" in figure
    first = {row.path: row for row in two_runs[0].predictions}
    assert len(data["followed"]) == sum(not row.correct for row in first.values())
    path_, truth, answers, correct = data["followed"][0]
    assert truth == [first[path_].label]
    assert [len(ranked) for ranked in answers] == [5, 5]
    assert answers[0] == [list(pair) for pair in first[path_].ranked]
    assert correct[0] is False
    assert "one</strong>: best" in text
    assert '<script>alert("x")' not in text


def test_page_of_runs_without_logs_or_differences_is_made(tmp_path: Path) -> None:
    rows = [predict("1", "a", "a")]
    compared = runs(rows, rows)
    text = write_comparison(tmp_path / "c.html", compare(compared), compared).read_text("utf-8")
    assert 'id="training"' not in text
    assert "None: all settings are the same." in text


@pytest.mark.browser
def test_page_opens_without_complaint_or_request_and_enlarges_a_photo(
    two_runs: list[Contender],
    two_run_folders: tuple[MadeRun, MadeRun],
    tmp_path: Path,
    open_page: OpenPage,
) -> None:
    root = two_run_folders[0].photos
    path = write_comparison(tmp_path / "c.html", compare(two_runs), two_runs, photos_root=root)
    watched = open_page(path, viewport={"width": 390, "height": 844})
    card = watched.page.locator('[data-side="1"] .card').first
    assert card.locator(".ranks li.truth .note").text_content() == "two"
    card.locator(".picture").click()
    watched.page.wait_for_selector("#viewer[open] img")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.complaints == []
    assert watched.outside() == [path.as_uri()]
