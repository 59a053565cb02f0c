"""Writes what a training came to: the model, its calibration, its figures."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

import numpy as np

from finetune.errors import RunError
from finetune.evaluation.calibration import fit_temperature
from finetune.evaluation.confusion import confusion_matrix, write_confusion_csv
from finetune.evaluation.held_out_labels import masked_scores
from finetune.evaluation.metrics import evaluate_logits
from finetune.evaluation.predictions import EvaluatedPhoto, make_predictions, write_predictions
from finetune.evaluation.unknown import Score, UnknownThreshold, familiarity, fit_threshold
from finetune.files import storage_errors, write_json
from finetune.photos.collection import Part
from finetune.photos.spec import InputSpec
from finetune.runs.folder import RunFolder
from finetune.runs.job import Outcome
from finetune.runs.parts import Parts
from finetune.runs.timm_config import timm_config
from finetune.training.state import save_tensors

STATED_PRECISION = 0.95
"""What the threshold for "none of these" aims at."""

UNKNOWN_SHARE = 0.2
"""Share of photos of foreign labels that the threshold reckons with."""

SCORE: Score = "max_probability"
"""Of the three scores it comes nearest to the stated precision on labels never trained on."""


def write_results(run: RunFolder, name: str, parts: Parts, outcome: Outcome) -> dict[str, Any]:
    """Writes model, calibration, predictions, confusion matrix and metrics; returns the metrics.

    Temperature and unknown threshold are fitted on validation, never on test.

    Raises:
        RunError: The training diverged: some logits are not finite.
        StorageError: A file could not be written.
    """
    for part, logits in outcome.logits.items():
        if not np.isfinite(logits).all():
            raise RunError(
                f"{run.path}: the training diverged (its answers on {part} are not finite). "
                "Start again with a lower --lr."
            )
    save_tensors(run.model_file, outcome.module.state_dict(), {"format": "pt"})
    _write_timm_folder(run, name, outcome.module, parts.labels)
    targets = {part: _targets(parts, part) for part in outcome.logits}
    temperature = fit_temperature(outcome.logits["validation"], targets["validation"])
    write_json(run.calibration_file, _calibration(outcome, targets, temperature))
    metrics: dict[str, Any] = {
        part: evaluate_logits(logits, targets[part], parts.labels, temperature=temperature)
        for part, logits in outcome.logits.items()
    }
    predictions = [
        prediction
        for part, logits in outcome.logits.items()
        for prediction in make_predictions(
            [EvaluatedPhoto(path=s.path, digest=s.digest, part=part) for s in parts.samples[part]],
            logits,
            targets[part],
            parts.labels,
            temperature=temperature,
        )
    ]
    write_predictions(run.predictions_file, predictions)
    judged: Part = "test" if "test" in outcome.logits else "validation"
    matrix = confusion_matrix(targets[judged], outcome.logits[judged].argmax(1), len(parts.labels))
    write_confusion_csv(run.confusion_file, matrix, parts.labels)
    write_json(run.metrics_file, metrics)
    return metrics


def _targets(parts: Parts, part: Part) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([sample.target for sample in parts.samples[part]], dtype=np.int64)


def _calibration(outcome: Outcome, targets: dict[Part, Any], temperature: float) -> dict[str, Any]:
    logits = outcome.logits["validation"]
    threshold = _unknown_threshold(logits, targets["validation"], temperature)
    return {
        "temperature": temperature,
        "fitted_on": "validation",
        "photos": len(logits),
        "unknown": threshold.to_dict(),
    }


def _unknown_threshold(logits: Any, targets: Any, temperature: float) -> UnknownThreshold:
    """Returns when to say "none of these", fitted with each label held out of its own answers."""
    if logits.shape[1] < 3:
        # With two labels none can be held out: this threshold knows of no strangers.
        scores = familiarity(logits, score=SCORE, temperature=temperature)
        right = logits.argmax(1) == targets
        return fit_threshold(scores, right, precision=STATED_PRECISION, score=SCORE)
    found = masked_scores(logits, targets, score=SCORE, temperature=temperature)
    return fit_threshold(
        found.scores,
        found.correct,
        unknown_scores=found.unknown_scores,
        unknown_share=UNKNOWN_SHARE,
        precision=STATED_PRECISION,
        score=SCORE,
    )


def _write_timm_folder(run: RunFolder, name: str, module: Any, labels: tuple[str, ...]) -> None:
    """Lets plain timm open the run: its config.json, and the model file under the same name."""
    spec = InputSpec.from_dict(run.read(run.preprocessing_file))
    content = timm_config(module, name, labels, spec)
    write_json(run.timm_folder / "config.json", content)
    target = run.timm_folder / run.model_file.name
    with storage_errors(target):
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(run.model_file, target)
            return
        # Some file systems know no hard links.
        shutil.copyfile(run.model_file, target)
