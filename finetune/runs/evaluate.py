"""Evaluation of a run on its own parts or on other labeled photos."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.dataset import PhotoDataset, Sample, targets_of_samples
from finetune.data.pixel_cache import PixelCache
from finetune.errors import CollectionError
from finetune.evaluation.confusion import confusion_matrix, write_confusion_csv
from finetune.evaluation.intervals import wilson
from finetune.evaluation.predictions import EvaluatedPhoto, write_predictions
from finetune.evaluation.probabilities import Floats
from finetune.files import collection_cache_dir, safe_name, write_json
from finetune.models.inference import predict_dataset
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import label_index
from finetune.photos.multi_label import merge_copies
from finetune.photos.scan import scan
from finetune.photos.split.split import read_split
from finetune.runs.folder import RunFolder
from finetune.runs.loading import TrainedRun, open_trained
from finetune.tasks.data_split import replay_split

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of a run on labeled photos.

    Attributes:
        folder: Where metrics.json, predictions.csv and confusion_matrix.csv are.
        foreign_labels: Labels of the photos that the run was never trained on, with their photos.
        left_out: Photos without a label, or with several; where a run says several labels, photos
            that nobody has labeled.
        unknown: How "none of these" did; None where the run has no threshold.
    """

    folder: Path
    metrics: dict[str, Any]
    foreign_labels: dict[str, int]
    left_out: int
    unknown: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Evaluation request.

    Attributes:
        photos: A labeled folder; None for the run's own validation and test parts.
        tta: Average the answers to each photo and to its mirror image.
    """

    photos: Path | None = None
    catalog: Path | None = None
    tta: bool = False
    device: str = "cpu"
    cache_gb: float = 10.0


def evaluate(
    run: RunFolder, request: EvaluationRequest | None = None, *, progress: Progress | None = None
) -> Evaluation:
    """Evaluates a run and writes the results.

    On the run's own parts the files go to ``RUN/evaluation``, on other photos to
    ``RUN/evaluation-NAME``; what the training wrote stays as it was.

    Raises:
        RunError: The run cannot be opened, or its photos have changed.
        CollectionError: The folder has no photo with a label of the run.
    """
    request = request or EvaluationRequest()
    return evaluate_trained(open_trained(run, device=request.device), request, progress=progress)


def evaluate_trained(
    trained: TrainedRun, request: EvaluationRequest, *, progress: Progress | None = None
) -> Evaluation:
    """Evaluates an opened run; see `evaluate`."""
    if request.photos is None:
        return _own_parts(trained, request, progress)
    return _other_photos(trained, request.photos, request, progress)


def _own_parts(
    trained: TrainedRun, request: EvaluationRequest, progress: Progress | None
) -> Evaluation:
    root = Path(trained.description["photos"])
    where = trained.description["settings"]["collection"].get("catalog")
    catalog = request.catalog or (Path(where) if where else None)
    rows = read_split(trained.folder.split_file)
    with _cache(root, catalog, trained, request) as cache:
        collection = scan(root, catalog=catalog, sink=cache)
        parts = replay_split(collection, rows, trained.labels, trained.task)
        found = {
            part: _answers(trained, _dataset(root, samples, cache, trained), request, progress)
            for part, samples in parts.samples.items()
            if part != "train" and samples
        }
    samples = {part: parts.samples[part] for part in found}
    folder = trained.folder.path / "evaluation"
    return _write(trained, folder, samples, found)


def _other_photos(
    trained: TrainedRun, root: Path, request: EvaluationRequest, progress: Progress | None
) -> Evaluation:
    index = label_index(trained.labels)
    with _cache(root, request.catalog, trained, request) as cache:
        collection = scan(root, catalog=request.catalog, sink=cache)
        sort_out = _labels_sorted_out if trained.task.multi_label else _sorted_out
        known, foreign, left_out = sort_out(collection, index)
        if not known:
            raise CollectionError(
                f"No photo in {root} has a label of {trained.folder.path}. It knows: "
                f"{', '.join(trained.labels[:8])}{' ...' if len(trained.labels) > 8 else ''}."
            )
        samples = [
            _sample(photo, targets if trained.task.multi_label else targets[0])
            for photo in known
            for targets in [tuple(index[label] for label in photo.labels)]
        ]
        said = _answers(trained, _dataset(root, samples, cache, trained), request, progress)
        strangers = None
        if foreign:
            others = PhotoDataset(root, [_sample(photo, 0) for photo in foreign], cache)
            strangers = _answers(trained, others, request, progress)
    name = safe_name(root.resolve().name)
    folder = trained.folder.path / f"evaluation-{name}"
    result = _write(trained, folder, {name: samples}, {name: said}, strangers)
    counts: dict[str, int] = {}
    for photo in foreign:
        counts[photo.labels[0]] = counts.get(photo.labels[0], 0) + 1
    return Evaluation(
        folder=folder,
        metrics=result.metrics,
        foreign_labels=counts,
        left_out=left_out,
        unknown=result.unknown,
    )


def _sorted_out(
    collection: Collection, index: dict[str, int]
) -> tuple[list[Photo], list[Photo], int]:
    """Returns photos of the run's labels, photos of other labels, and the number without label."""
    known: list[Photo] = []
    foreign: list[Photo] = []
    for photo in collection.photos:
        if len(photo.labels) == 1:
            (known if photo.labels[0] in index else foreign).append(photo)
    return known, foreign, len(collection) - len(known) - len(foreign)


def _labels_sorted_out(
    collection: Collection, index: dict[str, int]
) -> tuple[list[Photo], list[Photo], int]:
    """Returns the same for a multi-label run; labels unknown to it are dropped.

    A photo of nothing but other labels is a photo of none of the run's.
    """
    known: list[Photo] = []
    left_out = 0
    merged, _ = merge_copies(collection.photos)
    for photo in merged:
        if not photo.labels and not photo.confirmed:
            left_out += 1
            continue
        labels = tuple(label for label in photo.labels if label in index)
        known.append(dataclasses.replace(photo, labels=labels))
    return known if any(photo.labels for photo in known) else [], [], left_out


def _dataset(
    root: Path, samples: Sequence[Sample], cache: PixelCache, trained: TrainedRun
) -> PhotoDataset:
    width = len(trained.labels) if trained.task.multi_label else None
    return PhotoDataset(root, samples, cache, labels=width)


def _write(
    trained: TrainedRun,
    folder: Path,
    samples: Any,
    said: dict[Any, _Said],
    strangers: _Said | None = None,
) -> Evaluation:
    task = trained.task
    logits = {part: answers.logits for part, answers in said.items()}
    width = len(trained.labels) if task.multi_label else None
    targets = {part: targets_of_samples(samples[part], width) for part in logits}
    metrics: dict[str, Any] = {
        part: task.metrics(values, targets[part], trained.labels) for part, values in logits.items()
    }
    judged = list(logits)[-1]
    unknown = _unknown(trained, said[judged], targets[judged], strangers)
    write_json(folder / "metrics.json", {**metrics, **({"unknown": unknown} if unknown else {})})
    rows = [
        row
        for part, values in logits.items()
        for row in task.predictions(
            [EvaluatedPhoto(path=s.path, digest=s.digest, part=part) for s in samples[part]],
            values,
            targets[part],
            trained.labels,
        )
    ]
    write_predictions(folder / "predictions.csv", rows)
    if not task.multi_label:
        matrix = confusion_matrix(targets[judged], logits[judged].argmax(1), len(trained.labels))
        write_confusion_csv(folder / "confusion_matrix.csv", matrix, trained.labels)
    return Evaluation(
        folder=folder, metrics=metrics, foreign_labels={}, left_out=0, unknown=unknown
    )


def _unknown(
    trained: TrainedRun, said: _Said, targets: Any, strangers: _Said | None
) -> dict[str, Any] | None:
    """Returns the figures of the run's unknown threshold; photos of other labels count as wrong."""
    limit = trained.unknown
    if limit is None or limit.threshold is None:
        return None
    kept = ~said.refused
    right = int((said.logits.argmax(1) == targets)[kept].sum())
    wrongly = int((~strangers.refused).sum()) if strangers is not None else 0
    total = int(kept.sum()) + wrongly
    return {
        "stated_precision": None if limit.threshold is None else limit.precision,
        "measured_precision": right / total if total else None,
        "precision_interval": wilson(right, total),
        "answered": float(kept.mean()),
        "foreign_photos": 0 if strangers is None else len(strangers.logits),
        "foreign_refused": None if strangers is None else 1 - wrongly / len(strangers.logits),
    }


@dataclass(frozen=True, kw_only=True)
class _Said:
    """Logits ``(N, C)`` and which photos are unknown, ``(N,)``."""

    logits: NDArray[np.float32]
    refused: NDArray[np.bool_]


def _answers(
    trained: TrainedRun, photos: PhotoDataset, request: EvaluationRequest, progress: Progress | None
) -> _Said:
    limit = trained.unknown
    distances: list[Floats] = []

    def see(features: NDArray[np.float32]) -> None:
        if limit is not None:
            distances.append(limit.distances(features))

    needed = limit is not None and limit.needs_features
    logits = predict_dataset(
        trained.module,
        trained.preprocessing,
        photos,
        tta=request.tta,
        progress=progress,
        see_features=see if needed else None,
    )
    if limit is None:
        return _Said(logits=logits, refused=np.zeros(len(logits), dtype=bool))
    scores = limit.scores(
        logits, np.concatenate(distances) if needed else None, temperature=trained.temperature
    )
    return _Said(logits=logits, refused=limit.refuses(scores))


def _sample(photo: Photo, target: int | tuple[int, ...]) -> Sample:
    return Sample(path=photo.path, digest=photo.digest, crop=photo.crop, target=target)


def _cache(
    root: Path, catalog: Path | None, trained: TrainedRun, request: EvaluationRequest
) -> contextlib.closing[PixelCache]:
    cache_dir = collection_cache_dir(root, catalog)
    return contextlib.closing(
        PixelCache(cache_dir, trained.preprocessing, limit_gb=request.cache_gb)
    )
