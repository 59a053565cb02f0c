"""What a comparison of runs comes to: the table, the pairs, and what they mean in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.evaluation.intervals import Interval
from finetune.evaluation.predictions import Prediction
from finetune.reporting.run_record import RunRecord

SIGNIFICANT = 0.05
"""p-value below which a difference is called more than chance."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A run and what it said of the photos to compare on.

    Attributes:
        name: As shown; each contender has its own.
        record: The run's files.
        part: Which part the predictions are of, in words.
        predictions: What it said.
    """

    name: str
    record: RunRecord
    part: str
    predictions: Sequence[Prediction]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run in the table; figures are on the photos that all runs share."""

    name: str
    top1: float
    top1_interval: Interval
    balanced_accuracy: float
    ece: float
    parameters: int | None
    training_seconds: float | None
    images_per_second: float | None
    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """How often two runs are right on the photos of one label."""

    label: str
    photos: int
    first: float
    second: float

    @property
    def change(self) -> float:
        """By how much the second is right more often."""
        return self.second - self.first


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A photo that one of two runs is right on."""

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
        first: Name of the one.
        second: Name of the other.
        both: Photos that both are right on.
        neither: Photos that both are wrong on.
        only_first: Photos that only the first is right on, the surest first.
        only_second: Photos that only the second is right on, the surest first.
        difference: By how much the second is right more often.
        difference_interval: Its 95 % paired bootstrap interval.
        p_value: Of McNemar's exact test.
        labels: Labels by how much they gain, the greatest loss first.
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
        """How sure the difference is, in a sentence; counted for the one that is right more."""
        low, high = self.difference_interval
        if self.difference < 0:
            low, high = -high, -low
        return (
            f"The difference lies between {low * 100:+.1f} and {high * 100:+.1f} of 100 photos "
            "(95 % interval)."
        )

    @property
    def verdict(self) -> str:
        """What the test says, in a sentence."""
        points = abs(self.difference) * 100
        if not self.only_first and not self.only_second:
            return f"{self.first} and {self.second} are right on exactly the same photos."
        if self.difference == 0:
            return f"{self.first} and {self.second} are right equally often."
        better, other = (
            (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        )
        chance = (
            "which is more than chance"
            if self.p_value < SIGNIFICANT
            else "which may well be chance"
        )
        return (
            f"{better} is right on {points:.1f} more of 100 photos than {other}, "
            f"{chance} (p = {self.p_value:.2g})."
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side.

    Attributes:
        photos: How many photos all were asked about.
        notes: What a person must know before believing the figures.
        rows: One a run, in the order given.
        settings: Settings that differ: name, and the value of each run.
        pairs: The first run against each of the others.
    """

    photos: int
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    settings: tuple[tuple[str, tuple[Any, ...]], ...]
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        plain = asdict(self)
        for pair, written in zip(self.pairs, plain["pairs"], strict=True):
            written["verdict"] = pair.verdict
        plain["settings"] = {name: list(values) for name, values in self.settings}
        return plain
