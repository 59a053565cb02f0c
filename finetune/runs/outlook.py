"""Learning curve of a run, and sentences on it."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.errors import RunError
from finetune.evaluation.learning_curve import TANGIBLE, LearningCurve
from finetune.formatting import interval, percent
from finetune.messages import text
from finetune.runs.folder import RunFolder

MOST_NAMED = 3
"""Labels and pairs that a sentence names."""

FEWER = 0.5
"""Mistakes fewer from which a label is said to gain."""


def read_curve(run: RunFolder) -> LearningCurve | None:
    """Returns the learning curve of a run, or None if it has none.

    Raises:
        RunError: learning_curve.json is damaged.
    """
    if not run.curve_file.is_file():
        return None
    curve = LearningCurve.from_dict(run.read(run.curve_file))
    labels = len(run.read(run.labels_file))
    named = [one.label for one in curve.labels]
    named += [label for pair in curve.look_alikes for label in pair.labels]
    if named and max(named) >= labels:
        raise RunError(
            f"{run.curve_file} has label {max(named)}, but {run.labels_file.name} has {labels}. "
            "Copy the complete run folder again."
        )
    return curve


def curve_sentences(curve: LearningCurve, labels: Sequence[str]) -> list[str]:
    """Returns what more photos would bring, and for which labels; words before numbers."""
    found = [text("{verdict}: {forecast}.", verdict=_verdict(curve), forecast=_forecast(curve))]
    gaining = [one for one in curve.labels if one.fewer >= FEWER][:MOST_NAMED]
    parts = []
    if gaining and curve.gain[1] >= TANGIBLE:
        named = ", ".join(
            text(
                "{label} ({wrong} of {photos} wrong)",
                label=labels[one.label],
                wrong=one.wrong,
                photos=one.photos,
            )
            for one in gaining
        )
        parts.append(text("Most by photos of {labels}", labels=named))
    if curve.look_alikes:
        pairs = ", ".join(
            text(
                "{first} and {second}", first=labels[pair.labels[0]], second=labels[pair.labels[1]]
            )
            for pair in curve.look_alikes[:MOST_NAMED]
        )
        parts.append(text("{pairs} look alike: more photos have not told them apart", pairs=pairs))
    sentences = " ".join(text("{sentence}.", sentence=part) for part in parts)
    return [*found, sentences] if parts else found


def _verdict(curve: LearningCurve) -> str:
    low, high = curve.gain
    if low >= TANGIBLE:
        return text("More photos would help")
    if high < TANGIBLE:
        return text("You have enough photos of this kind")
    return text("More photos may help")


def _forecast(curve: LearningCurve) -> str:
    now = curve.points[-1]
    return text(
        "{now} are right now, and about {forecast} ({interval}) with twice the photos",
        now=percent(now.accuracy),
        forecast=percent(curve.forecast),
        interval=interval(curve.interval),
    )
