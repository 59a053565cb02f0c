"""Charts of reports: learning curves, calibration, and counts by label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from finetune.evaluation.calibration import risk_coverage
from finetune.evaluation.intervals import wilson
from finetune.evaluation.predictions import Prediction
from finetune.formatting import duration, interval, number, percent
from finetune.messages import marked, text
from finetune.photos.collection import Part
from finetune.reporting.chart import DASHES, Axis, Bar, Chart, Series
from finetune.reporting.drawing import SERIES, Point
from finetune.tasks.base import Task

POINTS = 200
"""Maximum number of points of a curve."""

MIN_COVERAGE_PHOTOS = 50
"""Photos below which a curve of accuracy by coverage is left out: it would show single photos."""

PARTS = (marked("train"), marked("validation"), marked("test"), marked("folds"))
"""Parts of a split as charts and tables name them."""

marked("{score} by training time")

Epochs = Sequence[Mapping[str, Any]]


def series_style(k: int) -> dict[str, Any]:
    """Returns the color and dashes of the k-th of several lines."""
    return {"color": f"series-{k % SERIES}", "dash": DASHES[k % len(DASHES)]}


def loss_curves(epochs: Epochs) -> Chart:
    """Returns the chart of training and validation loss by epoch."""
    y = Axis(title=text("Loss (nats)"), from_zero=True)
    return _curves(text("Loss by epoch"), epochs, "loss", y, parts=("train", "validation"))


def score_curves(epochs: Epochs, task: Task) -> Chart:
    """Returns the chart of the score by epoch, of the training photos too if it is known."""
    parts = ("train", "validation") if task.photo_score == task.score else ("validation",)
    score = text(task.score_title)
    title = score if len(parts) == 2 else text("{score} (validation)", score=score)
    y = Axis(title=title, kind="share")
    return _curves(text("{score} by epoch", score=score), epochs, "accuracy", y, parts=parts)


def _curves(title: str, epochs: Epochs, name: str, y: Axis, *, parts: Sequence[str]) -> Chart:
    styles = {"train": ("muted", DASHES[2]), "validation": ("right", DASHES[0])}
    series = []
    for part in parts:
        points = [
            (float(row["epoch"]), float(row[f"{part}_{name}"]))
            for row in epochs
            if row.get(f"{part}_{name}") is not None
        ]
        color, dash = styles[part]
        series.append(_series(text(part), points, y, text("epoch {x:.0f}"), color=color, dash=dash))
    return Chart(title=title, x=_epoch_axis(epochs), y=y, series=series)


def _epoch_axis(*runs: Epochs) -> Axis:
    last = max((float(row["epoch"]) for epochs in runs for row in epochs), default=1.0)
    return Axis(title=text("Epoch"), kind="integer", ends=(min(1.0, last - 1), last))


def _series(name: str, points: Sequence[Point], y: Axis, where: str, **style: Any) -> Series:
    thinned = thin(points)
    return Series(
        name=name,
        points=thinned,
        dots=2.5 if len(thinned) <= 40 else 0.0,
        notes=[
            f"{name}, {where.format(x=a)}: {percent(b) if y.kind == 'share' else number(b)}"
            for a, b in thinned
        ],
        **style,
    )


def thin(points: Sequence[Point]) -> list[Point]:
    """Returns at most about `POINTS` of the points: of each stretch its lowest and its highest.

    A curve with single bad epochs keeps them.
    """
    if len(points) <= POINTS:
        return list(points)
    step = -(-2 * len(points) // POINTS)
    kept: dict[int, None] = {0: None, len(points) - 1: None}
    for start in range(0, len(points), step):
        stretch = range(start, min(start + step, len(points)))
        kept[min(stretch, key=lambda k: points[k][1])] = None
        kept[max(stretch, key=lambda k: points[k][1])] = None
    return [points[k] for k in sorted(kept)]


def run_curves(runs: Mapping[str, Epochs], score: str = "Accuracy") -> dict[str, Chart]:
    """Returns score and loss on the validation photos of several runs, by epoch and by time.

    Args:
        runs: Epochs of each run.
        score: Name of the score: that of all runs is written as ``validation_accuracy``.
    """
    charts = {}
    for name, title, y in (
        ("accuracy", score, Axis(title=text("{score} (validation)", score=score), kind="share")),
        ("loss", text("Loss"), Axis(title=text("Loss (validation, nats)"), from_zero=True)),
    ):
        for over, axis in (
            ("epochs", _epoch_axis(*runs.values())),
            ("seconds", Axis(title=text("Training time"), kind="seconds", from_zero=True)),
        ):
            series = []
            for k, (run, epochs) in enumerate(runs.items()):
                points = [
                    (at, float(row[f"validation_{name}"]))
                    for row, at in zip(epochs, _places(epochs, over), strict=True)
                    if row.get(f"validation_{name}") is not None
                ]
                where = text("epoch {x:.0f}") if over == "epochs" else "{x:.0f} s"
                series.append(_series(run, points, y, where, **series_style(k)))
            words = "{score} by epoch" if over == "epochs" else "{score} by training time"
            charts[f"{name}_{over}"] = Chart(
                title=text(words, score=title), x=axis, y=y, series=series
            )
    return charts


def _places(epochs: Epochs, over: str) -> Iterator[float]:
    passed = 0.0
    for row in epochs:
        passed += float(row.get("seconds") or 0)
        yield float(row["epoch"]) if over == "epochs" else passed


def reliability(part: Mapping[str, Any], *, counted: str = "photos") -> Chart:
    """Returns the reliability diagram: observed frequency by predicted probability.

    Args:
        part: The metrics of a part.
        counted: Unit counted by a bin; see `Task.bin_unit`.
    """
    after = [item for item in part.get("reliability") or [] if item["photos"]]
    before = [
        item for item in (part.get("uncalibrated") or {}).get("reliability") or [] if item["photos"]
    ]
    most = max((item["photos"] for item in after), default=1)
    series = [
        Series(
            name=text("perfectly calibrated"),
            points=[(0, 0), (1, 1)],
            color="muted",
            dash=DASHES[2],
        )
    ]
    for name, bins, color, dash in (
        (text("before calibration"), before, "wrong", DASHES[1]),
        (text("after calibration, with 95 % interval"), after, "right", DASHES[0]),
    ):
        if not bins:
            continue
        ends = [
            wilson(round(item["accuracy"] * item["photos"]), item["photos"]) or (0.0, 1.0)
            for item in bins
        ]
        series.append(
            Series(
                name=name,
                points=[(item["confidence"], item["accuracy"]) for item in bins],
                color=color,
                dash=dash,
                dots=4,
                errors=ends if bins is after else (),
                notes=[
                    text(
                        "{name}: predicted {predicted}, observed {observed} of {photos} {unit} "
                        "({interval})",
                        name=name,
                        predicted=percent(item["confidence"], 0),
                        observed=percent(item["accuracy"], 0),
                        photos=f"{item['photos']:,}",
                        unit=text(counted),
                        interval=interval(end),
                    )
                    for item, end in zip(bins, ends, strict=True)
                ],
            )
        )
    return Chart(
        title=text("Reliability diagram"),
        x=Axis(title=text("Predicted probability"), kind="share", ends=(0, 1)),
        y=Axis(title=text("Observed frequency"), kind="share", ends=(0, 1)),
        series=series,
        bars=[
            Bar(
                x0=item["low"],
                x1=item["high"],
                y=item["photos"] / most * 0.3,
                note=f"{item['photos']:,} {text(counted)}",
            )
            for item in after
        ],
        height=340,
    )


def accuracy_by_coverage(predictions: Sequence[Prediction]) -> Chart | None:
    """Returns the accuracy on the most confident photos by their share of all photos.

    None if there are fewer than `MIN_COVERAGE_PHOTOS`.
    """
    if len(predictions) < MIN_COVERAGE_PHOTOS:
        return None
    coverage, risk = risk_coverage(
        [row.probability for row in predictions], [row.correct for row in predictions]
    )
    points = [(float(c), float(1 - r)) for c, r in zip(coverage, risk, strict=True)]
    tenths = sorted({-(-len(points) * k // 10) - 1 for k in range(1, 11)})
    ends = [wilson(round(points[k][1] * (k + 1)), k + 1) or (0.0, 1.0) for k in tenths]
    return Chart(
        title=text("Accuracy by coverage"),
        x=Axis(title=text("Coverage"), kind="share", ends=(0, 1)),
        y=Axis(title=text("Accuracy"), kind="share"),
        series=[
            Series(name="", points=thin(points)),
            Series(
                name=text("95 % interval"),
                points=[points[k] for k in tenths],
                joined=False,
                dots=3,
                errors=ends,
                notes=[
                    text(
                        "of {share} of the photos, {right} right ({interval})",
                        share=percent(points[k][0], 0),
                        right=percent(points[k][1]),
                        interval=interval(end),
                    )
                    for k, end in zip(tenths, ends, strict=True)
                ],
            ),
        ],
        height=340,
    )


@dataclass(frozen=True, kw_only=True)
class LabelBars:
    """Stacked bars, one row per label; drawn by the page, where names can wrap.

    Attributes:
        kinds: Name and color of each part of a bar.
        rows: Label and counts, in order of `kinds`.
        most: The largest sum of a row.
    """

    kinds: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[int]]]

    @property
    def most(self) -> int:
        """The largest sum of a row, or 1."""
        return max((sum(counts) for _, counts in self.rows), default=0) or 1


def answers_by_label(counts: Mapping[str, tuple[int, int, int]]) -> LabelBars:
    """Returns how often each label was found, missed and wrongly predicted, the worst first."""
    order = sorted(counts, key=lambda label: (-sum(counts[label][1:]), label))
    return LabelBars(
        kinds=(
            (text("found"), "right"),
            (text("missed"), "wrong"),
            (text("wrongly predicted"), "muted"),
        ),
        rows=[(label, counts[label]) for label in order],
    )


def photos_by_label(by_label: Mapping[str, Mapping[Part, int]]) -> LabelBars:
    """Returns the photos of each label, stacked by part, the largest label first."""
    order = sorted(by_label, key=lambda label: (-sum(by_label[label].values()), label))
    every = get_args(Part)
    parts = [(k, part) for k, part in enumerate(every) if any(part in p for p in by_label.values())]
    return LabelBars(
        kinds=[(text(part), f"series-{k}") for k, part in parts],
        rows=[(label, [by_label[label].get(part, 0) for _, part in parts]) for label in order],
    )


def best_words(epochs: Epochs, best: int | None) -> str:
    """Returns the best score with its epoch and time, such as ``best 99.58 % at epoch 314``."""
    row = next((row for row in epochs if row["epoch"] == best), None)
    if row is None or row.get("validation_accuracy") is None:
        return ""
    passed = sum(float(e.get("seconds") or 0) for e in epochs if e["epoch"] <= row["epoch"])
    words = {"score": percent(row["validation_accuracy"], 2), "epoch": f"{row['epoch']:,}"}
    if passed < 1:
        return text("best {score} at epoch {epoch}", **words)
    seconds = f"{passed:,.0f} s" + (f" ({duration(passed)})" if passed >= 60 else "")
    return text("best {score} at epoch {epoch} after {seconds}", **words, seconds=seconds)
