"""Comparison of runs on the same photos, with paired significance tests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from finetune.errors import RunError
from finetune.evaluation.calibration import bin_confidence, calibration_gap
from finetune.evaluation.intervals import (
    accuracy_difference,
    mcnemar,
    paired_difference,
    wilson,
)
from finetune.evaluation.predictions import Prediction
from finetune.formatting import count
from finetune.messages import counted, marked, plural, text
from finetune.reporting import charts, gallery
from finetune.reporting.comparison import (
    Comparison,
    Contender,
    Disagreement,
    Followed,
    LabelChange,
    Pair,
    Row,
)
from finetune.reporting.run_record import RunRecord
from finetune.reporting.summary import best_epoch


def contender(name: str, record: RunRecord, part: str | None = None) -> Contender:
    """Returns a run with its predictions for one of its own splits; see `RunRecord.part`."""
    chosen = record.part(part)
    return Contender(
        name=name, record=record, part=chosen, predictions=record.predictions_of(chosen)
    )


def compare(
    runs: Sequence[Contender], *, follow: Sequence[str] | None = None, seed: int = 0
) -> Comparison:
    """Returns a comparison of runs on the photos that all of them predicted.

    Photos are matched by content, so a collection may have moved. A note is added where the runs
    did not predict the same photos. A run of several labels per photo is compared with one of a
    single label on the photos that have one label, by its likeliest label.

    Args:
        runs: Two or more.
        follow: Paths of photos to follow through all runs; None: the mistakes of the first run.
        seed: Seed of the bootstrap.

    Raises:
        RunError: Fewer than two runs, no photo that all predicted, or a photo to follow is none
            of these.
    """
    if len(runs) < 2:
        raise RunError("A comparison needs two runs or more.")
    given, runs = runs, _comparable(runs)
    by_key = [_by_key(run.predictions) for run in runs]
    shared = [key for key in by_key[0] if all(key in other for other in by_key[1:])]
    if not shared:
        evaluated = ", ".join(
            f"{r.name} on {count(len(r.predictions), r.part + ' photo')}" for r in runs
        )
        raise RunError(
            f"These runs share no photo that all were evaluated on ({evaluated}). "
            "Compare them on one folder with --on PHOTOS."
        )
    answers = [[found[key] for key in shared] for found in by_key]
    return Comparison(
        photos=len(shared),
        notes=tuple(_notes(given, runs, len(shared), answers[0])),
        rows=tuple(_row(run, rows) for run, rows in zip(runs, answers, strict=True)),
        settings=tuple(differing_settings([run_settings(run.record) for run in runs])),
        pairs=tuple(
            _pair(runs[0].name, answers[0], run.name, rows, seed)
            for run, rows in zip(runs[1:], answers[1:], strict=True)
        ),
        followed=tuple(_follow(answers, follow)),
    )


def _comparable(runs: Sequence[Contender]) -> list[Contender]:
    """Returns the runs with predictions of one kind: several labels only if all have them."""
    if len({run.record.task.multi_label for run in runs}) == 1:
        return list(runs)
    return [
        replace(
            run,
            predictions=[
                replace(row, label=row.truth[0], label_set=None)
                for row in run.predictions
                if len(row.truth) == 1
            ],
        )
        if run.record.task.multi_label
        else run
        for run in runs
    ]


def _follow(
    answers: Sequence[Sequence[Prediction]], wanted: Sequence[str] | None
) -> Iterable[Followed]:
    first = answers[0]
    if wanted is None:
        places = gallery.mistakes(first)
    else:
        known = {row.path: k for k, row in reversed(list(enumerate(first)))}
        missing = [path for path in wanted if path not in known]
        if missing:
            raise RunError(
                f"--follow: {missing[0]} is no photo that all runs predicted. Write paths as in "
                "the predictions.csv of the first run."
            )
        places = [known[path] for path in dict.fromkeys(wanted)]
    for k in places:
        yield Followed(
            path=first[k].path,
            truth=first[k].truth,
            answers=tuple(rows[k].ranked for rows in answers),
            correct=tuple(rows[k].correct for rows in answers),
        )


def run_settings(record: RunRecord) -> dict[str, Any]:
    """Returns the config of a run with how its photos were prepared."""
    pixels = record.preprocessing
    policy = pixels.get("crop_policy")
    crops = policy.get("method", "yes") if isinstance(policy, Mapping) else "none"
    return {**record.config, "preprocessing": {**pixels, "crop_policy": crops} if pixels else {}}


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
    flat |= dict(walk(config.get("preprocessing") or {}, "photos."))
    # The resolved model and weights replace what the settings left open.
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


def _notes(
    given: Sequence[Contender], runs: Sequence[Contender], shared: int, rows: Sequence[Prediction]
) -> Iterable[str]:
    several = [run.name for run in runs if run.record.task.multi_label]
    if len(several) == len(runs):
        rule = runs[0].record.task.comparison_note
        if rule is not None:
            yield text(rule)
    elif several:
        left = sum(
            len(a.predictions) - len(b.predictions) for a, b in zip(given, runs, strict=True)
        )
        yield text(
            "{runs} may give a photo several labels. Compared are the photos with one label "
            "({predictions} left out), by the likeliest label.",
            runs=_joined(several),
            predictions=counted(left, "prediction"),
        )
    crops = [run_settings(run.record).get("preprocessing", {}).get("crop_policy") for run in runs]
    if len(set(crops)) > 1:
        cropped = [run.name for run, crop in zip(runs, crops, strict=True) if crop != "none"]
        yield plural(
            "{runs} looks at crops of the photos, the others at whole photos.",
            "{runs} look at crops of the photos, the others at whole photos.",
            len(cropped),
            runs=_joined(cropped),
        )
    if any(len(run.predictions) != shared for run in runs):
        evaluated = ", ".join(f"{r.name}: {counted(len(r.predictions), 'photo')}" for r in runs)
        yield text(
            "The runs were not evaluated on the same photos ({runs}). Compared are the {photos} "
            "that all of them predicted.",
            runs=evaluated,
            photos=counted(shared, "photo"),
        )
    for run in runs:
        if run.part in ("validation", "train"):
            note = (
                marked(
                    "{run} is evaluated on its validation photos, which were used to choose its "
                    "best epoch: its accuracy is too high."
                )
                if run.part == "validation"
                else marked(
                    "{run} is evaluated on its train photos, which were used to train it: its "
                    "accuracy is too high."
                )
            )
            yield text(note, run=run.name)
    truths = {label for row in rows for label in row.truth}
    for run in runs:
        unknown = sorted(truths - set(run.record.labels))
        if unknown:
            named = ", ".join(f"“{label}”" for label in unknown[:5])
            more = " …" if len(unknown) > 5 else ""
            yield text(
                "{run} was not trained on {labels}: all of their photos are wrong.",
                run=run.name,
                labels=named + more,
            )


def _joined(names: Sequence[str]) -> str:
    first, *others = names
    for name in others:
        first = text("{first} and {second}", first=first, second=name)
    return first


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
    best = None if run.record.fitted else best_epoch(run.record)
    passed = [float(e.get("seconds") or 0) for e in run.record.epochs if e["epoch"] <= (best or 0)]
    places = [place for row in rows if (place := _place_of_truth(row)) is not None]
    single = all(row.label_set is None for row in rows)
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
        second=places.count(2) if single else None,
        lower=len(rows) - hits - places.count(2) if single else None,
        best=charts.best_words(run.record.epochs, best),
        best_epoch=best,
        best_seconds=sum(passed) if best is not None else None,
        peak_memory_bytes=run.record.config.get("peak_memory_bytes"),
    )


def _place_of_truth(row: Prediction) -> int | None:
    """Returns the rank of the correct label from 1; None if it is not among those written."""
    ranked = [label for label, _ in row.ranked]
    return ranked.index(row.label) + 1 if row.label in ranked else None


def _pair(
    first: str, one: Sequence[Prediction], second: str, two: Sequence[Prediction], seed: int
) -> Pair:
    right_one = np.array([row.correct for row in one])
    right_two = np.array([row.correct for row in two])
    difference, ends = accuracy_difference(right_one, right_two, rng=np.random.default_rng(seed))
    only_first = np.flatnonzero(right_one & ~right_two)
    only_second = np.flatnonzero(right_two & ~right_one)

    def disagreements(
        places: Sequence[int], winner: Sequence[Prediction]
    ) -> tuple[Disagreement, ...]:
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
        only_first=disagreements(only_first.tolist(), one),
        only_second=disagreements(only_second.tolist(), two),
        difference=difference,
        difference_interval=ends,
        p_value=mcnemar(len(only_first), len(only_second)),
        labels=_label_changes(one, two),
    )


def _label_changes(one: Sequence[Prediction], two: Sequence[Prediction]) -> tuple[LabelChange, ...]:
    found: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for first, second in zip(one, two, strict=True):
        for label in first.truth:
            found[label].append((label in first.predicted_labels, label in second.predicted_labels))
    changes = [
        LabelChange(
            label=label,
            photos=len(pairs),
            first=sum(a for a, _ in pairs) / len(pairs),
            second=sum(b for _, b in pairs) / len(pairs),
            interval=paired_difference(
                sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs), len(pairs)
            ),
        )
        for label, pairs in found.items()
    ]
    return tuple(sorted(changes, key=lambda c: (c.change, c.label)))
