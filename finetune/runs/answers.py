"""Sentences on sure, unsure and unknown answers: claims, their evidence, and measured power.

The terminal, the report and the model card take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config import PRECISION
from finetune.evaluation.hierarchy import Hierarchy
from finetune.evaluation.out_of_distribution import UnknownDetector, needed_photos
from finetune.evaluation.precision_curve import LOWEST_CLAIM, Claim, PrecisionCurve
from finetune.formatting import count, given_percent, percent

if TYPE_CHECKING:
    from finetune.runs.evaluate import StatusMetrics

COVERAGES = (0.9, 0.95, 0.99)
"""Precisions whose coverage is listed."""


def claim_sentence(claim: Claim | None, precision: float) -> str:
    """Returns what a sure label means, of a single run; `precision` is what was asked for."""
    return f"Sure labels: {_claim(claim)}." if claim else _no_claim(precision)


def calibration_sentences(calibration: Mapping[str, Any]) -> list[str]:
    """Returns what calibration.json says of sure and unknown photos; empty for older runs."""
    found: list[str] = []
    if calibration.get("sure"):
        curve = PrecisionCurve.from_dict(calibration["sure"])
        found.append(claim_sentence(curve.claim(), PRECISION))
        found += [f"{line}." for line in coverage_lines(curve)]
        if calibration.get("hierarchy"):
            found += roll_up_sentences(calibration["hierarchy"], curve)
    unknown = calibration.get("unknown")
    if unknown and unknown.get("known_scores"):
        found.append(_power(unknown))
    return found


def roll_up_sentences(tree: Mapping[str, Any], curve: PrecisionCurve) -> list[str]:
    """Returns what the levels above the labels add; `curve` is that of the labels."""
    hierarchy = Hierarchy.from_dict(tree, [path[-1] for path in tree["paths"]])
    claim = curve.claim()
    precision = claim.precision if claim else PRECISION
    sure = claim.photos if claim else 0
    answers = hierarchy.answers_at(precision)
    found = [
        f"{one.photos:,} by the {name} ({one.right:,} right)"
        for name, one in zip(hierarchy.taxonomy.levels, answers, strict=False)
        if one.photos
    ][::-1]
    if not found:
        return []
    answered = sure + sum(one.photos for one in answers)
    return [
        f"Roll-up: where no label is sure, the answer is the deepest ancestor that is. Of "
        f"{count(curve.total, 'held-out photo')} {sure:,} have a sure label, and "
        f"{', '.join(found)}: {percent(answered / curve.total)} have an answer."
    ]


def level_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the mean tree distance of the mistakes of a part; empty without a tree."""
    distance = metrics.get("mistake_distance")
    if distance is None:
        return []
    return [
        f"Wrong labels are {distance:.2f} levels away in the mean: 1 is a label with the same "
        f"parent, {len(metrics['levels'])} one with no ancestor in common."
    ]


def coverage_lines(curve: PrecisionCurve) -> list[str]:
    """Returns the coverage at 90, 95 and 99 % with the photos behind it, a line each."""
    lines = []
    for precision in COVERAGES:
        claim = curve.claim(precision)
        if claim is None or not claim.is_met:
            text = f"cannot be claimed from {count(curve.total, 'held-out photo')}"
        else:
            text = (
                f"{percent(claim.coverage)} of the photos are sure ({claim.right:,} of "
                f"{claim.photos:,} right)"
            )
        lines.append(f"At {given_percent(precision)} precision: {text}")
    return lines


def status_sentences(found: StatusMetrics) -> list[str]:
    """Returns the numbers of an evaluation by status."""
    unsure = found["photos"] - found["sure"] - found["unknown"]
    right = f", of which {found['sure_right']:,} are right" if found["sure"] else ""
    sentences = [
        f"Of {count(found['photos'], 'photo')}: sure {found['sure']:,}{right}; unsure {unsure:,}; "
        f"unknown {found['unknown']:,}."
    ]
    if found["rolled_up"]:
        sentences.append(
            f"Of the unsure ones {found['rolled_up']:,} have an answer at a level above the "
            f"labels, of which {found['rolled_up_right']:,} are right."
        )
    if found["precision"] is not None and found["sure"]:
        share = found["sure_right"] / found["sure"]
        sentences.append(
            f"Sure labels are {percent(share)} right; claimed are "
            f"{given_percent(found['precision'])}, for photos like those of the training. For "
            "another place, season or camera no claim can hold."
        )
    if found["other_photos"]:
        sentences.append(
            f"Of {count(found['other_photos'], 'photo')} of other labels: unknown "
            f"{found['other_unknown']:,}, sure nevertheless {found['other_sure']:,}."
        )
    return sentences


def _claim(claim: Claim) -> str:
    text = (
        f"at least {given_percent(claim.precision)} right, from a probability "
        f"of {given_percent(claim.threshold)} on ({claim.right:,} of {claim.photos:,} held-out "
        f"photos, in {count(claim.groups, 'group')}; {percent(claim.coverage)} of all)"
    )
    if claim.is_met:
        return text
    return (
        f"{text}; the photos are too few, or too often mistaken, for {given_percent(claim.target)}"
    )


def _no_claim(precision: float) -> str:
    text = f"Nothing is sure: the held-out photos allow no claim of {given_percent(precision)}"
    if precision > LOWEST_CLAIM:
        return (
            f"{text}, nor of {given_percent(LOWEST_CLAIM)}. More photos may; --precision 0.6 asks "
            "for less."
        )
    return f"{text}. More photos may."


def _power(unknown: Mapping[str, Any]) -> str:
    detector = UnknownDetector.from_dict({**unknown, "score": "max_logit"})
    share = unknown["false_alarms"]
    if detector.threshold(share) is None:
        return (
            f"No photo is taken for unknown: {count(detector.photos, 'held-out photo')} are too "
            f"few to state {given_percent(share)} false alarms, which needs {needed_photos(share)}."
        )
    text = f"Unknown photos: flags {given_percent(share)} of photos of known labels"
    powers: Sequence[Any] = detector.power
    if not powers:
        return f"{text}."
    listed = "; ".join(
        f"of {one.subject} it flagged {percent(one.detected / one.photos)} "
        f"({one.detected:,} of {one.photos:,})"
        for one in powers
    )
    return f"{text}; {listed}."
