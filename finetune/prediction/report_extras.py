"""Extras of a report: likely label errors and Grad-CAM overlays of mistakes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.curation.label_errors import LabelError, find_label_errors, find_multi_label_errors
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.errors import DecodeError, FinetuneError
from finetune.evaluation.learning_curve import LearningCurve
from finetune.evaluation.predictions import Prediction, read_predictions
from finetune.files import collection_cache_dir
from finetune.models.features import FeatureCache
from finetune.photos.split.split import read_split
from finetune.prediction.explain import explain_photo, explainable
from finetune.prediction.outlook import LabeledFeatures, outlook
from finetune.prediction.predictor import Predictor
from finetune.reporting.outlook import HarmfulPhoto
from finetune.reporting.report import Extras, Suspect
from finetune.runs.folder import RunFolder, fitted_head
from finetune.runs.loading import TrainedRun, open_trained

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
    """Returns the extras, and notes on missing ones with the reason.

    Args:
        run: The run.
        root: Folder of its photos.
        part: Reported part; None: test, else validation.
        max_overlays: Maximum number of mistakes with an overlay, the most confident first.
        progress: Called as ``progress(done, total)`` for overlays.
    """
    notes = []
    suspect_labels: tuple[Suspect, ...] = ()
    curve: LearningCurve | None = None
    harmful: list[HarmfulPhoto] = []
    try:
        trained = open_trained(run)
        with labeled_features(trained, root) as photos:
            suspect_labels = tuple(
                Suspect(
                    path=path,
                    label=error.label,
                    suggested=error.suggested,
                    probability=error.probability,
                )
                for path, error in _suspects(trained, photos)
            )
            # Features of a backbone that was trained on these photos already know their labels.
            if fitted_head(trained.description) and not trained.task.multi_label:
                curve, harmful = outlook(photos, trained.labels, trained.description)
    except FinetuneError as error:
        notes.append(f"Likely label errors are left out: {error}")
    overlays: dict[str, bytes] = {}
    try:
        overlays = _overlays(run, root, part, max_overlays, progress)
    except FinetuneError as error:
        notes.append(f"Grad-CAM overlays are left out: {error}")
    extras = Extras(
        part=part, overlays=overlays, suspects=suspect_labels, curve=curve, harmful=harmful
    )
    return extras, notes


def _label_to_explain(row: Prediction) -> str:
    """Returns the label to explain of a mistake: a wrongly predicted one, else a missed one."""
    predicted, truth = row.predicted_labels, row.truth
    wrong = [label for label in predicted if label not in truth]
    return (wrong or [label for label in truth if label not in predicted])[0]


def _overlays(
    run: RunFolder, root: Path, part: str | None, most: int, progress: Progress | None
) -> dict[str, bytes]:
    rows = read_predictions(run.predictions_file)
    parts = {row.part for row in rows}
    shown = part or next((p for p in ("test", "folds") if p in parts), "validation")
    wrong = [row for row in rows if row.part == shown and not row.correct]
    wrong = sorted(wrong, key=lambda row: -row.probability)[:most]
    engine = explainable(Predictor.load(run.path, engine="torch"))
    found = {}
    for number, row in enumerate(wrong, start=1):
        try:
            image = explain_photo(
                engine, root / row.path, _label_to_explain(row), size=OVERLAY_PIXELS
            )
        except DecodeError:
            continue  # the report names the photo and its reason
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        found[row.path] = buffer.getvalue()
        if progress:
            progress(number, len(wrong))
    return found


def suspects(
    trained: TrainedRun, root: Path, *, progress: Progress | None = None
) -> list[tuple[str, LabelError]]:
    """Returns (path, label error) of a run's photos, the strongest first.

    Heads are cross-validated on the network's features of all photos of the split, near-duplicates
    kept together. If the full network was trained on these photos, its features depend on their
    labels, and fewer wrong ones are found. Missing photos are left out.

    Args:
        trained: The run.
        root: Folder of its photos.
        progress: Called as ``progress(done, total)`` for new features.

    Raises:
        RunError: The run has no split.csv.
        ConfigError: The labels have too few groups of photos to hold any out.
    """
    with labeled_features(trained, root, progress=progress) as photos:
        return _suspects(trained, photos)


@dataclass(frozen=True)
class CachedRows:
    """Features that are read from their cache when they are needed: 100,000 take half a gigabyte.

    Attributes:
        cache: Holds all of them.
        keys: Of the photos, in their order.
    """

    cache: FeatureCache
    keys: list[bytes]

    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[np.float32]:
        """Returns the features of some photos, ``(len(rows), F) float32``."""
        return self.cache.read([self.keys[row] for row in rows.tolist()]).numpy()


@contextlib.contextmanager
def labeled_features(
    trained: TrainedRun, root: Path, *, progress: Progress | None = None
) -> Iterator[LabeledFeatures]:
    """Yields the features of a run's photos by its network; missing photos are left out.

    Args:
        trained: The run.
        root: Folder of its photos.
        progress: Called as ``progress(done, total)`` for new features.

    Raises:
        RunError: The run has no split.csv.
    """
    several = trained.task.multi_label
    rows = [
        row
        for row in read_split(trained.folder.split_file)
        if (several or len(row.labels) == 1) and (root / row.path).is_file()
    ]
    samples = [Sample(path=r.path, digest=r.digest, crop=None, target=0) for r in rows]
    cache_dir = collection_cache_dir(root)
    with (
        contextlib.closing(PixelCache(cache_dir, trained.preprocessing, limit_gb=10)) as pixels,
        contextlib.closing(
            FeatureCache(cache_dir, trained.module, trained.preprocessing)
        ) as features,
    ):
        photos = PhotoDataset(root, samples, pixels)
        features.fill(photos, progress=progress)
        yield LabeledFeatures(rows=rows, features=CachedRows(features, features.keys(photos)))


def _suspects(trained: TrainedRun, photos: LabeledFeatures) -> list[tuple[str, LabelError]]:
    rows, found = photos.rows, photos.features
    groups = [r.group for r in rows]
    if trained.task.multi_label:
        check = find_multi_label_errors(found, [r.labels for r in rows], groups)
    else:
        check = find_label_errors(found, [r.labels[0] for r in rows], groups)
    return [(rows[error.position].path, error) for error in check.errors]
