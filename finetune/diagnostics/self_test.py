"""Self-test: a small training and prediction on drawn photos."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.diagnostics.redaction import describe_error

SPECIES, PHOTOS, SIZE = 3, 6, (360, 240)
INPUT_SIZE = 128
"""Side of the network's input; smaller than its own, to save time."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Result of the self-test.

    Attributes:
        seconds: Duration of each step that was completed.
        error: The error that ended it; None: every step passed.
    """

    seconds: dict[str, float]
    error: str | None


def run_self_test() -> SelfTest:
    """Draws photos, finds their subjects, trains, and predicts, as a user's collection would be.

    It uses the default device and model, and a temporary folder, which is removed.
    """
    seconds: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory(
            prefix="finetune-doctor-", ignore_cleanup_errors=True
        ) as name:
            _steps(Path(name), seconds)
    except Exception as error:  # noqa: BLE001 - any failure is what the report is about
        return SelfTest(seconds=seconds, error=describe_error(error))
    return SelfTest(seconds=seconds, error=None)


def _steps(folder: Path, seconds: dict[str, float]) -> None:
    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[step] = round(time.perf_counter() - started, 2)

    photos, unseen = folder / "photos", folder / "unseen"
    with timed("import torch"):
        from finetune.config_io import resolve
        from finetune.curation.crop_policy import CropPolicyConfig
        from finetune.curation.crop_proposals import propose_crops
        from finetune.demo_data import draw_collection, draw_unseen
        from finetune.prediction.predictor import Predictor
        from finetune.training.train import train
    with timed("draw photos"):
        draw_collection(photos, species=SPECIES, photos_per_species=PHOTOS, size=SIZE, workers=1)
        draw_unseen(unseen, count=2, species=SPECIES, size=SIZE)
    with timed("find subjects"):
        propose_crops(photos, CropPolicyConfig(method="saliency"))
    with timed("train"):
        run = train(
            photos, resolve({}, {"size": INPUT_SIZE}), run="doctor", runs=folder / "runs"
        ).run
    with timed("predict"):
        for prediction in Predictor.load(run).predict_stream(sorted(unseen.iterdir())):
            if prediction.error is not None:
                raise RuntimeError(f"a drawn photo could not be predicted: {prediction.error}")
