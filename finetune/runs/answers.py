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
from finetune.messages import counted, text

if TYPE_CHECKING:
    from finetune.runs.evaluate import StatusMetrics

COVERAGES = (0.9, 0.95, 0.99)
"""Precisions whose coverage is listed."""


def claim_sentence(claim: Claim | None, precision: float) -> str:
    """Returns what a sure label means, of a single run; `precision` is what was asked for."""
    if claim is None:
        return _no_claim(precision)
    return text("Sure labels: {claim}.", claim=_claim(claim))


def calibration_sentences(calibration: Mapping[str, Any]) -> list[str]:
    """Returns what calibration.json says of sure and unknown photos; empty for older runs."""
    found: list[str] = []
    if calibration.get("sure"):
        curve = PrecisionCurve.from_dict(calibration["sure"])
        found.append(claim_sentence(curve.claim(), PRECISION))
        found += [text("{sentence}.", sentence=line) for line in coverage_lines(curve)]
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
        text(
            "{photos} by the {level} ({right} right)",
            photos=one.photos,
            level=name,
            right=one.right,
        )
        for name, one in zip(hierarchy.taxonomy.levels, answers, strict=False)
        if one.photos
    ][::-1]
    if not found:
        return []
    answered = sure + sum(one.photos for one in answers)
    return [
        text(
            "Roll-up: where no label is sure, the answer is the deepest ancestor that is. Of "
            "{photos} {sure} have a sure label, and {levels}: {share} have an answer.",
            photos=counted(curve.total, "held-out photo"),
            sure=f"{sure:,}",
            levels=", ".join(found),
            share=percent(answered / curve.total),
        )
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
            words = text(
                "cannot be claimed from {photos}", photos=counted(curve.total, "held-out photo")
            )
        else:
            words = text(
                "{share} of the photos are sure ({right} of {photos} right)",
                share=percent(claim.coverage),
                right=f"{claim.right:,}",
                photos=f"{claim.photos:,}",
            )
        lines.append(
            text("At {share} precision: {result}", share=given_percent(precision), result=words)
        )
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
    words = text(
        "at least {precision} right, from a probability of {threshold} on ({right} of {photos} "
        "held-out photos, in {groups}; {share} of all)",
        precision=given_percent(claim.precision),
        threshold=given_percent(claim.threshold),
        right=f"{claim.right:,}",
        photos=f"{claim.photos:,}",
        groups=counted(claim.groups, "group"),
        share=percent(claim.coverage),
    )
    if claim.is_met:
        return words
    return text(
        "{claim}; the photos are too few, or too often mistaken, for {target}",
        claim=words,
        target=given_percent(claim.target),
    )


def _no_claim(precision: float) -> str:
    if precision > LOWEST_CLAIM:
        return text(
            "Nothing is sure: the held-out photos allow no claim of {precision}, nor of {lowest}. "
            "More photos may; --precision 0.6 asks for less.",
            precision=given_percent(precision),
            lowest=given_percent(LOWEST_CLAIM),
        )
    return text(
        "Nothing is sure: the held-out photos allow no claim of {precision}. More photos may.",
        precision=given_percent(precision),
    )


def _power(unknown: Mapping[str, Any]) -> str:
    detector = UnknownDetector.from_dict({**unknown, "score": "max_logit"})
    share = unknown["false_alarms"]
    if detector.threshold(share) is None:
        return text(
            "No photo is taken for unknown: {photos} are too few to state {share} false alarms, "
            "which needs {needed}.",
            photos=counted(detector.photos, "held-out photo"),
            share=given_percent(share),
            needed=needed_photos(share),
        )
    words = text(
        "Unknown photos: flags {share} of photos of known labels", share=given_percent(share)
    )
    powers: Sequence[Any] = detector.power
    if not powers:
        return text("{sentence}.", sentence=words)
    listed = "; ".join(
        text(
            "of {subject} it flagged {share} ({flagged} of {photos})",
            subject=text(one.subject),
            share=percent(one.detected / one.photos),
            flagged=f"{one.detected:,}",
            photos=f"{one.photos:,}",
        )
        for one in powers
    )
    return text("{sentence}.", sentence=f"{words}; {listed}")
