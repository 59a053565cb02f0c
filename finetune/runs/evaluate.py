"""Evaluation of a run on its own parts or on other labeled photos."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from finetune.config import PRECISION
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample, targets_of_samples
from finetune.errors import CollectionError, RunError, StorageError
from finetune.evaluation.confusion import write_confusion_csv
from finetune.evaluation.hierarchy import level_metrics, mean_distance
from finetune.evaluation.predictions import EvaluatedPhoto, write_predictions
from finetune.evaluation.probabilities import Floats, log_softmax
from finetune.evaluation.status import statuses, sure_threshold
from finetune.files import collection_cache_dir, safe_name, write_json
from finetune.models.inference import BATCH_SIZE, predict_dataset
from finetune.photos.bursts import burst_groups
from finetune.photos.collection import Part, Photo
from finetune.photos.labels import label_index
from finetune.photos.scan import scan
from finetune.photos.split.split import read_split
from finetune.processes import ALONE, Team, own_batches
from finetune.runs.calibration import RunCalibration
from finetune.runs.folder import RunFolder, check_photos_are_there
from finetune.runs.loading import TrainedRun, open_trained
from finetune.tasks.data_split import replay_split

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class StatusMetrics(TypedDict):
    """Numbers of photos by the status of their prediction; see `finetune.evaluation.status`.

    Attributes:
        precision: Claimed of the sure predictions; None where nothing is claimed.
        photos: Photos of known labels.
        sure: Those that are sure.
        sure_right: Sure ones whose label is right.
        unknown: Photos of known labels that are taken for unknown; the rest is unsure.
        rolled_up: Unsure ones with an answer above the labels.
        rolled_up_right: Those of them whose answer is right.
        other_photos: Photos of labels that the run does not have.
        other_unknown: Those that are recognized as unknown.
        other_sure: Those that are sure nevertheless.
    """

    precision: float | None
    photos: int
    sure: int
    sure_right: int
    unknown: int
    rolled_up: int
    rolled_up_right: int
    other_photos: int
    other_unknown: int
    other_sure: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of a run on labeled photos.

    Attributes:
        folder: Folder with metrics.json, predictions.csv and confusion_matrix.csv; None if it
            could not be written.
        unknown_labels: Number of photos by label that the run was not trained on.
        left_out: Number of photos without a label (or, of a single-label run, with several).
        statuses: Numbers of photos by status; None if the run does not tell them apart.
    """

    folder: Path | None
    metrics: dict[str, Any]
    unknown_labels: dict[str, int]
    left_out: int
    statuses: StatusMetrics | None


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Photos and options of an evaluation.

    Attributes:
        photos: A labeled folder; None for the run's own validation and test parts.
        own_photos: Where the photos of the run are now; None: where they were.
        output: Folder for the results; None: in the run.
        tta: Average the predictions of each photo and its mirror image.
        by_burst: Count bursts of frames instead of photos; see `finetune.photos.bursts`.
    """

    photos: Path | None = None
    own_photos: Path | None = None
    output: Path | None = None
    catalog: Path | None = None
    tta: bool = False
    by_burst: bool = False
    device: str = "cpu"
    cache_gb: float = 10.0


def evaluate(
    run: RunFolder,
    request: EvaluationRequest | None = None,
    *,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Evaluates a run and writes the results.

    On the run's own parts the files go to ``RUN/evaluation``, on other photos to
    ``RUN/evaluation-NAME``, unless `request.output` names a folder; the files of the training are
    unchanged. If a run cannot be written, its figures are returned all the same. Of a run that was
    trained on all of its photos the cross-validated metrics are returned. Several processes share
    the photos; the main one writes.

    Raises:
        RunError: The run cannot be opened, or its photos have changed.
        CollectionError: The folder has no photo with a label of the run.
    """
    request = request or EvaluationRequest()
    trained = open_trained(run, device=request.device)
    return evaluate_trained(trained, request, progress=progress, team=team)


def evaluate_trained(
    trained: TrainedRun,
    request: EvaluationRequest,
    *,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Evaluates an opened run; see `evaluate`."""
    if request.by_burst and trained.task.multi_label:
        raise RunError(
            f"--by burst is for runs of one label a photo, unlike {trained.folder.path}."
        )
    if request.photos is None:
        return _own_parts(trained, request, progress, team)
    return _other_photos(trained, request.photos, request, progress, team)


def _own_parts(
    trained: TrainedRun, request: EvaluationRequest, progress: Progress | None, team: Team
) -> Evaluation:
    root = request.own_photos or Path(trained.description["photos"])
    where = trained.description["settings"].get("collection", {}).get("catalog")
    catalog = request.catalog or (Path(where) if where else None)
    rows = read_split(trained.folder.split_file)
    if any(row.fold is not None for row in rows):
        if request.tta or request.by_burst:
            what, option = ("views", "--tta 2") if request.tta else ("bursts", "--by burst")
            raise RunError(
                f"{trained.folder.path} was trained on all of its photos, so {what} of these "
                f"cannot evaluate it. Give other photos: finetune evaluate RUN PHOTOS {option}"
            )
        run = trained.folder
        metrics: dict[str, Any] = run.read(run.metrics_file)
        return Evaluation(
            folder=run.path, metrics=metrics, unknown_labels={}, left_out=0, statuses=None
        )
    check_photos_are_there(root, trained.folder.path, "finetune evaluate RUN --photos FOLDER")
    with _cache(root, catalog, trained, request) as cache:
        with team.main_first():
            collection = scan(root, catalog=catalog, sink=cache)
        held_out: list[Part] = ["validation", "test"]
        parts = replay_split(collection, rows, trained.labels, trained.task, needed=held_out)
        samples: dict[Part, Sequence[Sample]] = {
            part: of_part for part, of_part in parts.samples.items() if part != "train" and of_part
        }
        if not samples:
            raise RunError(
                f"{trained.folder.split_file} has no photo that was held out. Copy the complete "
                "run folder again, or give other photos: finetune evaluate RUN PHOTOS"
            )
        found = {
            part: _predict(
                trained, _dataset(root, of_part, cache, trained), request, progress, team
            )
            for part, of_part in samples.items()
        }
    if request.by_burst:
        photo_of = {photo.path: photo for photo in collection.photos}
        for part, of_part in samples.items():
            samples[part], found[part] = _count_bursts(
                trained, [photo_of[one.path] for one in of_part], of_part, found[part]
            )
    folder = request.output or trained.folder.path / "evaluation"
    return _write(trained, folder if team.is_main else None, samples, found)


def _other_photos(
    trained: TrainedRun,
    root: Path,
    request: EvaluationRequest,
    progress: Progress | None,
    team: Team,
) -> Evaluation:
    index = label_index(trained.labels)
    with _cache(root, request.catalog, trained, request) as cache:
        with team.main_first():
            collection = scan(root, catalog=request.catalog, sink=cache)
        known, unknown, left_out = trained.task.match_labels(collection, index)
        if not known:
            raise CollectionError(
                f"No photo in {root} has a label of {trained.folder.path}. Its labels: "
                f"{', '.join(trained.labels[:8])}{' ...' if len(trained.labels) > 8 else ''}."
            )
        samples = [
            _sample(photo, trained.task.target(tuple(index[label] for label in photo.labels)))
            for photo in known
        ]
        found = _predict(trained, _dataset(root, samples, cache, trained), request, progress, team)
        of_unknown = None
        if unknown:
            others = PhotoDataset(root, [_sample(photo, 0) for photo in unknown], cache)
            of_unknown = _predict(trained, others, request, progress, team)
    if request.by_burst:
        samples, found = _count_bursts(trained, known, samples, found)
        if of_unknown is not None:
            _, of_unknown = _count_bursts(trained, unknown, others.samples, of_unknown)
    name = safe_name(root.resolve().name)
    folder = request.output or trained.folder.path / f"evaluation-{name}"
    result = _write(
        trained, folder if team.is_main else None, {name: samples}, {name: found}, of_unknown
    )
    counts: dict[str, int] = {}
    for photo in unknown:
        counts[photo.labels[0]] = counts.get(photo.labels[0], 0) + 1
    return Evaluation(
        folder=result.folder,
        metrics=result.metrics,
        unknown_labels=counts,
        left_out=left_out,
        statuses=result.statuses,
    )


def _count_bursts(
    trained: TrainedRun, photos: Sequence[Photo], samples: Sequence[Sample], outputs: _Outputs
) -> tuple[list[Sample], _Outputs]:
    """Returns one row for each burst: its first frame, with the mean of its frames' outputs.

    Frames with different labels are different bursts. Mean log probabilities are logits again.
    """
    bursts: dict[tuple[int, Any], list[int]] = {}
    for row, (burst, sample) in enumerate(zip(burst_groups(photos), samples, strict=True)):
        bursts.setdefault((burst, sample.target), []).append(row)
    temperature = trained.task.temperature
    logits = log_softmax(outputs.logits / temperature) * temperature
    members = list(bursts.values())
    return [samples[rows[0]] for rows in members], _Outputs(
        logits=np.stack([logits[rows].mean(axis=0) for rows in members]).astype(np.float32),
        is_unknown=np.array([outputs.is_unknown[rows].mean() > 0.5 for rows in members]),
    )


def _dataset(
    root: Path, samples: Sequence[Sample], cache: PixelCache, trained: TrainedRun
) -> PhotoDataset:
    width = trained.task.target_width(trained.labels)
    return PhotoDataset(root, samples, cache, labels=width)


def _write(
    trained: TrainedRun,
    folder: Path | None,
    samples: Any,
    found: dict[Any, _Outputs],
    of_unknown: _Outputs | None = None,
) -> Evaluation:
    """Writes the results of an evaluation into a folder, if there is one, and returns them."""
    logits = {part: outputs.logits for part, outputs in found.items()}
    width = trained.task.target_width(trained.labels)
    last = list(found)[-1]
    targets = targets_of_samples(samples[last], width)
    counts = _count_statuses(trained, found[last], targets, of_unknown)
    calibration = trained.calibration
    metrics: dict[str, Any] | None = None
    if folder is not None:
        try:
            metrics = write_evaluated(folder, calibration, trained.labels, samples, logits)
            more = {"statuses": counts} if counts else {}
            write_json(folder / "metrics.json", {**metrics, **more})
        except StorageError as error:
            logger.warning(
                "The results are not saved: %s Name another folder with --output.", error
            )
            folder = metrics = None
    if metrics is None:
        metrics = {
            part: _metrics(
                calibration, values, targets_of_samples(samples[part], width), trained.labels
            )
            for part, values in logits.items()
        }
    return Evaluation(
        folder=folder, metrics=metrics, unknown_labels={}, left_out=0, statuses=counts
    )


def write_evaluated(
    folder: Path,
    calibration: RunCalibration,
    labels: tuple[str, ...],
    samples: Mapping[Any, Sequence[Sample]],
    logits: Mapping[Any, NDArray[np.float32]],
) -> dict[str, Any]:
    """Writes predictions.csv and confusion_matrix.csv of parts; returns the metrics by part.

    The confusion matrix is that of the last part, and of single-label tasks only.

    Args:
        folder: Destination.
        calibration: Calibrated task, and the tree of the labels if they have one.
        labels: In the order of the logits' columns.
        samples: Photos by part.
        logits: ``(N, C)`` by part.
    """
    task = calibration.task
    targets = {
        part: targets_of_samples(samples[part], task.target_width(labels)) for part in logits
    }
    rows = [
        row
        for part, values in logits.items()
        for row in task.predictions(
            [EvaluatedPhoto(path=s.path, digest=s.digest, part=part) for s in samples[part]],
            values,
            targets[part],
            labels,
        )
    ]
    write_predictions(folder / "predictions.csv", rows)
    last = list(logits)[-1]
    matrix = task.confusion(logits[last], targets[last])
    if matrix is not None:
        write_confusion_csv(folder / "confusion_matrix.csv", matrix, labels)
    return {
        part: _metrics(calibration, values, targets[part], labels)
        for part, values in logits.items()
    }


def _metrics(
    calibration: RunCalibration, logits: NDArray[np.float32], targets: Any, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Returns the metrics of a part, with those of the levels of a tree of labels."""
    task, hierarchy = calibration.task, calibration.hierarchy
    found = task.metrics(logits, targets, labels)
    if hierarchy is None or calibration.sure is None:
        return found
    probabilities = task.probabilities(logits)
    predicted = probabilities.argmax(axis=1)
    curves = (*hierarchy.curves, calibration.sure)
    return found | {
        "levels": level_metrics(hierarchy.taxonomy, curves, probabilities, targets),
        "mistake_distance": mean_distance(hierarchy.taxonomy, predicted, targets),
    }


def _count_statuses(
    trained: TrainedRun, known: _Outputs, targets: Any, others: _Outputs | None
) -> StatusMetrics | None:
    if trained.unknown is None:
        return None
    sure_from, claim = sure_threshold([trained.sure], [trained.unknown], PRECISION)

    def found(outputs: _Outputs) -> NDArray[np.str_]:
        confidence = trained.task.probabilities(outputs.logits).max(axis=1)
        return np.array(statuses(confidence, outputs.is_unknown, sure_from=sure_from))

    status = found(known)
    rolled_up = _roll_up(trained, known, status, targets, claim.precision if claim else PRECISION)
    other = np.array([], np.str_) if others is None else found(others)
    sure = status == "sure"
    return {
        "precision": claim.precision if claim else None,
        "photos": len(status),
        "sure": int(sure.sum()),
        "sure_right": int((known.logits.argmax(1) == targets)[sure].sum()),
        "unknown": int((status == "unknown").sum()),
        "rolled_up": len(rolled_up),
        "rolled_up_right": sum(rolled_up),
        "other_photos": len(other),
        "other_unknown": int((other == "unknown").sum()),
        "other_sure": int((other == "sure").sum()),
    }


def _roll_up(
    trained: TrainedRun,
    outputs: _Outputs,
    status: NDArray[np.str_],
    targets: Any,
    precision: float,
) -> list[bool]:
    """Returns whether each answer above the labels is right."""
    tree = trained.hierarchy
    if tree is None:
        return []
    probabilities = trained.task.probabilities(outputs.logits)
    answers = tree.roll_up(probabilities, status != "unsure", precision)
    return [
        answer.label == tree.taxonomy.paths[target][tree.taxonomy.levels.index(answer.level)]
        for answer, target in zip(answers, targets, strict=True)
        if answer is not None
    ]


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """Logits ``(N, C)`` and which photos are unknown, ``(N,)``."""

    logits: NDArray[np.float32]
    is_unknown: NDArray[np.bool_]


def _predict(
    trained: TrainedRun,
    photos: PhotoDataset,
    request: EvaluationRequest,
    progress: Progress | None,
    team: Team,
) -> _Outputs:
    limit = trained.unknown
    distances: list[Floats] = []

    def add_distances(features: NDArray[np.float32]) -> None:
        if limit is not None:
            distances.append(limit.distances(features))

    needed = limit is not None and limit.needs_features
    mine = own_batches(team, len(photos), BATCH_SIZE)
    own = None
    if len(mine):
        own = predict_dataset(
            trained.module,
            trained.preprocessing,
            photos,
            tta=request.tta,
            progress=progress,
            on_features=add_distances if needed else None,
            places=mine,
        )
    found = [part for part in team.gather_objects((own, distances)) if part[0] is not None]
    logits = np.concatenate([part for part, _ in found])
    if limit is None:
        return _Outputs(logits=logits, is_unknown=np.zeros(len(logits), dtype=bool))
    measured = np.concatenate([rows for _, part in found for rows in part]) if needed else None
    scores = limit.scores(logits, measured, temperature=trained.temperature)
    return _Outputs(logits=logits, is_unknown=limit.is_unknown(scores))


def _sample(photo: Photo, target: int | tuple[int, ...]) -> Sample:
    return Sample(path=photo.path, digest=photo.digest, crop=photo.crop, target=target)


def _cache(
    root: Path, catalog: Path | None, trained: TrainedRun, request: EvaluationRequest
) -> contextlib.closing[PixelCache]:
    cache_dir = collection_cache_dir(root, catalog)
    return contextlib.closing(
        PixelCache(cache_dir, trained.preprocessing, limit_gb=request.cache_gb)
    )
