"""Which run is better, on the same photos, and whether the difference is more than chance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from finetune.errors import RunError
from finetune.evaluation.calibration import bin_confidence, calibration_gap
from finetune.evaluation.intervals import Interval, accuracy_difference, mcnemar, wilson
from finetune.evaluation.predictions import Prediction
from finetune.reporting.formatting import count
from finetune.reporting.run_record import RunRecord


def contender(name: str, record: RunRecord, part: str | None = None) -> Contender:
    """Returns a run with what it said of one of its own parts; see `RunRecord.part`."""
    chosen = record.part(part)
    return Contender(
        name=name, record=record, part=chosen, predictions=record.predictions_of(chosen)
    )


def compare(runs: Sequence[Contender], *, seed: int = 0) -> Comparison:
    """Returns how runs compare on the photos that every one of them was asked about.

    Photos are matched by content, so that a collection may have moved. Where the runs were not
    asked about the same photos, a note says so.

    Args:
        runs: Two or more.
        seed: Of the bootstrap.

    Raises:
        RunError: Fewer than two runs, runs of different kinds, or no photo that all were asked
            about.
    """
    if len(runs) < 2:
        raise RunError("A comparison needs two runs or more.")
    if len({run.record.multi_label for run in runs}) > 1:
        one = next(run.name for run in runs if not run.record.multi_label)
        other = next(run.name for run in runs if run.record.multi_label)
        raise RunError(
            f"{one} says a single label of a photo and {other} several: they cannot be compared."
        )
    by_key = [_by_key(run.predictions) for run in runs]
    shared = [key for key in by_key[0] if all(key in other for other in by_key[1:])]
    if not shared:
        told = ", ".join(
            f"{r.name} on {count(len(r.predictions), r.part + ' photo')}" for r in runs
        )
        raise RunError(
            f"These runs share no photo that all were evaluated on ({told}). "
            "Compare them on one folder with --on PHOTOS."
        )
    answers = [[found[key] for key in shared] for found in by_key]
    return Comparison(
        photos=len(shared),
        notes=tuple(_notes(runs, len(shared), answers[0])),
        rows=tuple(_row(run, rows) for run, rows in zip(runs, answers, strict=True)),
        settings=tuple(differing_settings([run.record.config for run in runs])),
        pairs=tuple(
            _pair(runs[0].name, answers[0], run.name, rows, seed)
            for run, rows in zip(runs[1:], answers[1:], strict=True)
        ),
    )


def differing_settings(
    configs: Iterable[Mapping[str, Any]],
) -> list[tuple[str, tuple[Any, ...]]]:
    """Returns the settings that are not the same in all configs, by name."""
    flat = [_flattened(config) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    found = [(name, tuple(one.get(name) for one in flat)) for name in names]
    return [(name, values) for name, values in found if any(a != b for a, b in pairwise(values))]


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    def walk(section: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for name, value in section.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    described = {
        key: config[key] for key in ("model", "weights", "photos", "device") if key in config
    }
    flat = {name: value for name, value in described.items() if not isinstance(value, Mapping)}
    settings = config.get("settings")
    flat |= dict(walk(settings if isinstance(settings, Mapping) else {}, ""))
    # The run's own words of model and weights say what the settings left open.
    for name in ("model.model", "model.weights", "machine.device"):
        if name.split(".")[1] in flat:
            flat.pop(name, None)
    versions = config.get("versions")
    return flat | dict(walk(versions if isinstance(versions, Mapping) else {}, "version of "))


def _by_key(rows: Sequence[Prediction]) -> dict[tuple[str, int], Prediction]:
    # One content may lie in a folder twice: the n-th copy of one run is the n-th of the other.
    seen: Counter[str] = Counter()
    found = {}
    for row in sorted(rows, key=lambda row: row.path):
        key = row.digest or row.path
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def _notes(runs: Sequence[Contender], shared: int, rows: Sequence[Prediction]) -> Iterable[str]:
    if runs[0].record.multi_label:
        yield "A photo counts as right where every label of it is right, and no other is said."
    if any(len(run.predictions) != shared for run in runs):
        told = ", ".join(f"{r.name}: {count(len(r.predictions), 'photo')}" for r in runs)
        yield (
            f"The runs were not evaluated on the same photos ({told}). "
            f"Compared are the {count(shared, 'photo')} that all of them were asked about."
        )
    for run in runs:
        if run.part in ("validation", "train"):
            what = "chose its best epoch" if run.part == "validation" else "taught it"
            yield (
                f"{run.name} is judged by its {run.part} photos, which {what}: a little too kindly."
            )
    truths = {label for row in rows for label in row.truth}
    for run in runs:
        unknown = sorted(truths - set(run.record.labels))
        if unknown:
            named = ", ".join(f"“{label}”" for label in unknown[:5])
            more = " …" if len(unknown) > 5 else ""
            yield f"{run.name} does not know {named}{more} and is wrong on all of their photos."


def _row(run: Contender, rows: Sequence[Prediction]) -> Row:
    hits = sum(row.correct for row in rows)
    by_label: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row.correct)
    bins = bin_confidence([row.probability for row in rows], [row.correct for row in rows])
    rates = [e["images_per_second"] for e in run.record.epochs if e.get("images_per_second")]
    seconds = run.record.config.get("training_seconds")
    if seconds is None and run.record.epochs:
        seconds = sum(float(epoch.get("seconds") or 0) for epoch in run.record.epochs)
    return Row(
        name=run.name,
        top1=hits / len(rows),
        top1_interval=wilson(hits, len(rows)) or (0.0, 1.0),
        balanced_accuracy=float(np.mean([np.mean(right) for right in by_label.values()])),
        ece=calibration_gap(bins),
        parameters=run.record.parameters,
        training_seconds=seconds,
        images_per_second=median(rates) if rates else None,
        size_bytes=run.record.size_bytes,
    )


def _pair(
    first: str, one: Sequence[Prediction], second: str, two: Sequence[Prediction], seed: int
) -> Pair:
    right_one = np.array([row.correct for row in one])
    right_two = np.array([row.correct for row in two])
    difference, ends = accuracy_difference(right_one, right_two, rng=np.random.default_rng(seed))
    only_first = np.flatnonzero(right_one & ~right_two)
    only_second = np.flatnonzero(right_two & ~right_one)

    def told(places: Sequence[int], winner: Sequence[Prediction]) -> tuple[Disagreement, ...]:
        ordered = sorted(places, key=lambda k: (-winner[k].probability, winner[k].path))
        return tuple(
            Disagreement(
                path=one[k].path,
                label=one[k].label,
                first=one[k].predicted,
                first_probability=one[k].probability,
                second=two[k].predicted,
                second_probability=two[k].probability,
            )
            for k in ordered
        )

    return Pair(
        first=first,
        second=second,
        both=int((right_one & right_two).sum()),
        neither=int((~right_one & ~right_two).sum()),
        only_first=told(only_first.tolist(), one),
        only_second=told(only_second.tolist(), two),
        difference=difference,
        difference_interval=ends,
        p_value=mcnemar(len(only_first), len(only_second)),
        labels=_label_changes([row.label for row in one], right_one, right_two),
    )


def _label_changes(
    labels: Sequence[str], right_one: np.ndarray, right_two: np.ndarray
) -> tuple[LabelChange, ...]:
    names = np.array(labels)
    changes = []
    for label in sorted(set(labels)):
        chosen = names == label
        changes.append(
            LabelChange(
                label=label,
                photos=int(chosen.sum()),
                first=float(right_one[chosen].mean()),
                second=float(right_two[chosen].mean()),
            )
        )
    return tuple(sorted(changes, key=lambda c: (c.change, c.label)))


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
