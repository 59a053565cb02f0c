from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finetune.evaluation.out_of_distribution import Power, UnknownDetector
from finetune.evaluation.precision_curve import precision_curve
from finetune.runs.answers import (
    calibration_sentences,
    claim_sentence,
    coverage_lines,
    status_sentences,
)
from finetune.runs.evaluate import StatusMetrics

DETECTOR = UnknownDetector(
    score="max_logit",
    known_scores=tuple(float(score) for score in range(100)),
    photos=100,
    power=(
        Power(subject="labels left out", photos=100, detected=61),
        Power(subject="noise", photos=12, detected=12),
    ),
)


def plain(text: str) -> str:
    """A sentence with ordinary spaces before its percent signs."""
    return text.replace("\u202f", " ")


def test_a_claim_names_its_evidence() -> None:
    probabilities = np.r_[np.full(300, 0.9), np.full(100, 0.6)]
    curve = precision_curve(probabilities, np.arange(400) < 300, np.arange(400) // 2)
    assert plain(claim_sentence(curve.claim(0.95), 0.95)) == (
        "Sure labels: at least 95 % right, from a probability of 90 % on (300 of 300 held-out "
        "photos, in 150 groups; 75.0 % of all)."
    )
    assert [plain(line) for line in coverage_lines(curve)] == [
        "At 90 % precision: 75.0 % of the photos are sure (300 of 300 right)",
        "At 95 % precision: 75.0 % of the photos are sure (300 of 300 right)",
        "At 99 % precision: cannot be claimed from 400 held-out photos",
    ]


def test_too_few_photos_are_said_to_be_too_few() -> None:
    few = precision_curve(np.full(40, 0.9), np.ones(40), np.arange(40))
    assert plain(claim_sentence(few.claim(0.95), 0.95)) == (
        "Sure labels: at least 91 % right, from a probability of 90 % on (40 of 40 held-out "
        "photos, in 40 groups; 100 % of all); the photos are too few, or too often mistaken, for "
        "95 %."
    )
    assert plain(claim_sentence(None, 0.95)) == (
        "Nothing is sure: the held-out photos allow no claim of 95 %, nor of 80 %. More photos "
        "may; --precision 0.6 asks for less."
    )
    assert plain(claim_sentence(None, 0.6)) == (
        "Nothing is sure: the held-out photos allow no claim of 60 %. More photos may."
    )


def test_the_power_of_the_detector_is_stated() -> None:
    assert [plain(line) for line in calibration_sentences({"unknown": DETECTOR.to_dict()})] == [
        "Unknown photos: flags 5 % of photos of known labels; of labels left out it flagged 61.0 % "
        "(61 of 100); of noise it flagged 100 % (12 of 12)."
    ]
    few = dataclasses.replace(DETECTOR, known_scores=(1.0, 2.0), photos=2, power=())
    assert [plain(line) for line in calibration_sentences({"unknown": few.to_dict()})] == [
        "No photo is taken for unknown: 2 held-out photos are too few to state 5 % false alarms, "
        "which needs 19."
    ]


@pytest.mark.parametrize(
    "earlier", [{}, {"unknown": None}, {"unknown": {"score": "energy", "threshold": 0.3}}]
)
def test_runs_of_earlier_versions_claim_nothing(earlier: dict[str, object]) -> None:
    assert calibration_sentences(earlier) == []


def test_an_evaluation_counts_statuses() -> None:
    found: StatusMetrics = {
        "precision": 0.95,
        "photos": 100,
        "sure": 80,
        "sure_right": 72,
        "unknown": 6,
        "rolled_up": 9,
        "rolled_up_right": 8,
        "other_photos": 20,
        "other_unknown": 12,
        "other_sure": 3,
    }
    assert [plain(line) for line in status_sentences(found)] == [
        "Of 100 photos: sure 80, of which 72 are right; unsure 14; unknown 6.",
        "Of the unsure ones 9 have an answer at a level above the labels, of which 8 are right.",
        "Sure labels are 90.0 % right; claimed are 95 %, for photos like those of the training. "
        "For another place, season or camera no claim can hold.",
        "Of 20 photos of other labels: unknown 12, sure nevertheless 3.",
    ]
