"""Extras of a report: likely label errors and Grad-CAM overlays of mistakes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from finetune.errors import DecodeError, FinetuneError
from finetune.evaluation.predictions import Prediction, read_predictions
from finetune.prediction.explain import explain_photo, explainable
from finetune.prediction.predictor import Predictor
from finetune.reporting.report import Extras, Suspect
from finetune.runs.folder import RunFolder
from finetune.runs.label_errors import suspects
from finetune.runs.loading import open_trained

OVERLAY_PIXELS = 224
JPEG_QUALITY = 80

Progress = Callable[[int, int], None]


def report_extras(
    run: RunFolder,
    root: Path,
    *,
    part: str | None = None,
    max_overlays: int = 100,
    progress: Progress | None = None,
) -> tuple[Extras, list[str]]:
    """Returns the extras, and notes on what is missing and why.

    Args:
        run: The run.
        root: Where its photos are.
        part: Which part is reported on; None: test, else validation.
        max_overlays: Mistakes that get a Grad-CAM overlay, the surest first.
        progress: Called with how many overlays are done, and of how many.
    """
    notes = []
    doubted: tuple[Suspect, ...] = ()
    try:
        doubted = tuple(
            Suspect(
                path=path,
                label=error.label,
                suggested=error.suggested,
                probability=error.probability,
            )
            for path, error in suspects(open_trained(run), root)
        )
    except FinetuneError as error:
        notes.append(f"Likely wrong labels are left out: {error}")
    overlays: dict[str, bytes] = {}
    try:
        overlays = _overlays(run, root, part, max_overlays, progress)
    except FinetuneError as error:
        notes.append(f"What the network looked at is left out: {error}")
    return Extras(part=part, overlays=overlays, suspects=doubted), notes


def _doubtful(row: Prediction) -> str:
    """Returns the label to explain of a mistake: a wrongly predicted one, else a missed one."""
    said, truth = row.predicted_labels, row.truth
    wrongly = [label for label in said if label not in truth]
    return (wrongly or [label for label in truth if label not in said])[0]


def _overlays(
    run: RunFolder, root: Path, part: str | None, most: int, progress: Progress | None
) -> dict[str, bytes]:
    rows = read_predictions(run.predictions_file)
    parts = {row.part for row in rows}
    shown = part or next((p for p in ("test", "folds") if p in parts), "validation")
    wrong = [row for row in rows if row.part == shown and not row.correct]
    wrong = sorted(wrong, key=lambda row: -row.probability)[:most]
    engine = explainable(Predictor.load(run.path))
    found = {}
    for number, row in enumerate(wrong, start=1):
        try:
            image = explain_photo(engine, root / row.path, _doubtful(row), size=OVERLAY_PIXELS)
        except DecodeError:
            continue  # the report names the photo and its reason
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        found[row.path] = buffer.getvalue()
        if progress:
            progress(number, len(wrong))
    return found
