"""Result of a comparison of runs on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.evaluation.intervals import Interval
from finetune.evaluation.predictions import Prediction
from finetune.formatting import signed
from finetune.messages import text
from finetune.reporting.run_record import RunRecord

SIGNIFICANT = 0.05
"""p-value below which a difference is called significant."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Run with its predictions for the photos to compare on.

    Attributes:
        name: Unique name.
        record: The run's files.
        part: Part of the predictions, in words.
        predictions: Its predictions.
    """

    name: str
    record: RunRecord
    part: str
    predictions: Sequence[Prediction]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of a run in the table, with metrics on the photos that all runs share.

    Attributes:
        second: Photos whose correct label is the second likeliest; None with several labels.
        lower: Wrong photos whose correct label is a less likely one; None with several labels.
        best: Best validation score with its epoch and time, in words; empty without epochs.
        best_epoch: Its epoch; None without epochs.
        best_seconds: Time of training until then.
        peak_memory_bytes: Most memory of the training; None if it is not recorded.
    """

    name: str
    top1: float
    top1_interval: Interval
    balanced_accuracy: float
    ece: float
    parameters: int | None
    training_seconds: float | None
    images_per_second: float | None
    size_bytes: int | None
    second: int | None
    lower: int | None
    best: str
    best_epoch: int | None
    best_seconds: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """Share of the photos of one label in which two runs find it.

    Attributes:
        interval: 95 % interval of the change; see `intervals.paired_difference`.
    """

    label: str
    photos: int
    first: float
    second: float
    interval: Interval

    @property
    def change(self) -> float:
        """Share of the second minus that of the first."""
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval of the change has only one sign."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Photo with the answers of all runs.

    Attributes:
        truth: Its correct labels.
        answers: Ranked labels with probabilities, a list for each run.
        correct: Whether each run is right.
    """

    path: str
    truth: tuple[str, ...]
    answers: tuple[tuple[tuple[str, float], ...], ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Photo that only one of two runs predicts correctly."""

    path: str
    label: str
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs on the same photos.

    Attributes:
        both: Photos that both predict correctly.
        neither: Photos that both predict wrongly.
        only_first: Photos that only the first predicts correctly, the most confident first.
        only_second: Photos that only the second predicts correctly, the most confident first.
        difference: Accuracy of the second minus that of the first.
        difference_interval: Its 95 % paired bootstrap interval.
        p_value: p-value of McNemar's exact test.
        labels: Change of each label, the greatest loss first.
    """

    first: str
    second: str
    both: int
    neither: int
    only_first: tuple[Disagreement, ...]
    only_second: tuple[Disagreement, ...]
    difference: float
    difference_interval: Interval
    p_value: float
    labels: tuple[LabelChange, ...]

    @property
    def reach(self) -> str:
        """Sentence with the interval of the difference, in favor of the better run.

        Empty where both are right on the same photos: a bootstrap of no difference has no width.
        """
        if not self.only_first and not self.only_second:
            return ""
        low, high = self.difference_interval
        if self.difference < 0:
            low, high = -high, -low
        return text(
            "The difference lies between {low} and {high} of 100 photos (95 % interval).",
            low=signed(low * 100),
            high=signed(high * 100),
        )

    @property
    def verdict(self) -> str:
        """Sentence with the result of the significance test."""
        points = abs(self.difference) * 100
        if not self.only_first and not self.only_second:
            return text(
                "{first} and {second} are right on the same photos.",
                first=self.first,
                second=self.second,
            )
        if self.difference == 0:
            return text(
                "{first} and {second} are right equally often.",
                first=self.first,
                second=self.second,
            )
        better, other = (
            (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        )
        words = {
            "better": better,
            "other": other,
            "points": f"{points:.1f}",
            "p": f"{self.p_value:.2g}",
        }
        if self.p_value < SIGNIFICANT:
            return text(
                "{better} is right on {points} more of 100 photos than {other}, which is "
                "significant (p = {p}).",
                **words,
            )
        return text(
            "{better} is right on {points} more of 100 photos than {other}, which may be chance "
            "(p = {p}).",
            **words,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side.

    Attributes:
        photos: Number of photos that all runs predicted.
        notes: Caveats to read before the figures.
        rows: One row per run, in the order given.
        settings: Settings that differ: name, and the value of each run.
        pairs: The first run against each of the others.
        followed: Chosen photos through all runs; by default the mistakes of the first run.
    """

    photos: int
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    settings: tuple[tuple[str, tuple[Any, ...]], ...]
    pairs: tuple[Pair, ...]
    followed: tuple[Followed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        plain = asdict(self)
        for pair, written in zip(self.pairs, plain["pairs"], strict=True):
            written["verdict"] = pair.verdict
        plain["settings"] = {name: list(values) for name, values in self.settings}
        return plain
