"""Validation of everything that is read from a run folder.

A run is data and may come from a stranger: each of its JSON files has a schema with types and
bounds, and a file that breaks it is one `RunError` with the file and the field. Unknown keys are
kept unread, so that runs of newer versions open; to add a key, declare it in its schema.
"""

from __future__ import annotations

import itertools
import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import numpy as np
from msgspec import Meta

from finetune.errors import RunError
from finetune.files import read_json

MAX_JSON_BYTES = 32 << 20
MAX_DEPTH = 12
"""Maximum nesting of lists and objects; the deepest file of a run has 5."""

MAX_WORKING_SIZE = 8192

# Control characters move the cursor of a terminal; bidi overrides reorder its text.
_TEXT = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"

Label = Annotated[str, Meta(pattern=rf"\A{_TEXT}{{1,500}}\Z")]
Text = Annotated[str, Meta(pattern=rf"\A{_TEXT}{{0,4000}}\Z")]
FilePath = Annotated[str, Meta(pattern=r"\A[^\x00]{1,4000}\Z")]
LocalFile = Annotated[str, Meta(pattern=r"\A(?![\\/]{2})[^\x00]{1,4000}\Z")]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.+\-]{1,200}\Z")]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]
Temperature = Annotated[float, Meta(ge=1e-3, le=1e4)]
Share = Annotated[float, Meta(ge=0, le=1)]
Shares = Annotated[list[Share], Meta(min_length=2, max_length=2)]
Figure = Number | None
Measured = Share | None
Interval = Shares | None


class CollectionSettings(TypedDict, total=False):
    """Section of the photos."""

    catalog: FilePath | None


class PixelsSettings(TypedDict, total=False):
    """Section of the pixels."""

    cache_gb: Annotated[float, Meta(ge=0, le=1e9)]


class TrainingSettings(TypedDict, total=False):
    """Section of the training."""

    batch_size: Count
    lr: Figure
    weight_decay: Figure
    mode: Text | None
    epochs: Count | None


class MachineSettings(TypedDict, total=False):
    """Section of the machine."""

    seed: Count


class Settings(TypedDict, total=False):
    """Sections of a `finetune.config.TrainConfig`; `config_io.resolve` checks all their values."""

    collection: CollectionSettings
    pixels: PixelsSettings
    augmentation: dict[str, Any]
    training: TrainingSettings
    machine: MachineSettings
    model: dict[str, Any]
    optimization: dict[str, Any]
    labels: dict[str, Any]
    tracking: dict[str, Any]
    recipe: dict[str, Any]
    model_args: dict[str, Any] | None


class Nearest(TypedDict, total=False):
    """Most similar photos of different parts."""

    distance_bits: Count | None


class SplitProof(TypedDict, total=False):
    """Counts of near-duplicate groups and leaks."""

    groups: Count
    straddling: Count
    leaks: dict[str, Count] | None
    nearest: Nearest | None


class FoldSummary(TypedDict, total=False):
    """Scores of a cross-validation."""

    count: Count
    scores: list[Number]
    mean: Number
    spread: Number
    interval: Annotated[list[Number], Meta(min_length=2, max_length=2)] | None


class Origin(TypedDict):
    """Run that a training continued."""

    run: NotRequired[FilePath]


_WithOrigin = TypedDict("_WithOrigin", {"from": NotRequired[Origin | None]})


class Config(_WithOrigin):
    """config.json."""

    model: Name
    settings: Settings
    photos: FilePath
    weights: NotRequired[FilePath | None]
    started: NotRequired[Text]
    versions: NotRequired[dict[str, Text]]
    device: NotRequired[Text]
    task: NotRequired[Text]
    finished: NotRequired[bool]
    split: NotRequired[SplitProof | None]
    folds: NotRequired[FoldSummary | None]
    notes: NotRequired[list[str]]
    best_epoch: NotRequired[Count]
    epochs_done: NotRequired[Count]
    seconds: NotRequired[Annotated[float, Meta(ge=0, le=1e30)]]
    training_seconds: NotRequired[Annotated[float, Meta(ge=0, le=1e30)]]
    peak_memory_bytes: NotRequired[Count]
    l2_strength: NotRequired[Number]
    lda_shrinkage: NotRequired[Number]
    share_of_training: NotRequired[Share]


class CropPolicy(TypedDict):
    """Method that crops photos before prediction."""

    method: Literal["center", "saliency", "detector"]
    model: NotRequired[Name | None]
    weights: NotRequired[LocalFile | None]
    digest: NotRequired[Text | None]


class Preprocessing(TypedDict):
    """preprocessing.json."""

    size: Annotated[int, Meta(ge=8, le=4096)]
    mean: list[Annotated[float, Meta(ge=-1000, le=1000)]]
    std: list[Annotated[float, Meta(ge=1e-6, le=1000)]]
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    crop_pct: Annotated[float, Meta(gt=0, le=1)]
    fit: Literal["crop", "pad", "squash"]
    whiten: NotRequired[bool]
    channels: NotRequired[Literal[1, 3]]
    crop_policy: NotRequired[CropPolicy | None]


class Mixture(TypedDict):
    """Spreads of the parts of a score."""

    odds_spread: Positive
    distance_spread: Positive
    similarity_spread: NotRequired[Positive]


class Power(TypedDict):
    """Measured detection of other subjects."""

    subject: Text
    photos: Count
    detected: Count


class Unknown(TypedDict):
    """Detector of unknown photos; earlier versions saved a fixed threshold and its precision."""

    score: Literal["energy", "max_logit", "max_probability", "odds_and_distance"]
    threshold: Figure
    photos: Count
    false_alarms: NotRequired[Share]
    power: NotRequired[list[Power]]
    known_scores: NotRequired[Annotated[list[Number], Meta(max_length=10_000)]]
    mixture: NotRequired[Mixture | None]
    precision: NotRequired[Share]
    measured_precision: NotRequired[Measured]
    precision_interval: NotRequired[Interval]
    coverage: NotRequired[Share]
    refused_unknown: NotRequired[Measured]
    unknown_photos: NotRequired[Count]
    unknown_share: NotRequired[Measured]
    confidence: NotRequired[Share]


class Sure(TypedDict):
    """Counts of held-out photos from each probability on."""

    thresholds: list[Share]
    photos: list[Annotated[int, Meta(ge=1, le=10**12)]]
    right: list[Count]
    groups: list[Annotated[int, Meta(ge=1, le=10**12)]]
    total: Count


class LevelAnswers(TypedDict):
    """Answers at one level of a tree of labels."""

    threshold: Measured
    photos: Count
    right: Count


class Tree(TypedDict):
    """Tree of the labels, with the precision of each level above them."""

    levels: Annotated[list[Label], Meta(min_length=2, max_length=13)]
    paths: Annotated[list[list[Label]], Meta(max_length=100_000)]
    curves: list[Sure]
    answers: dict[str, list[LevelAnswers]]


class PrecisionGoal(TypedDict):
    """Precision that thresholds of labels are fitted for."""

    precision: NotRequired[Share]


class Calibration(TypedDict):
    """calibration.json."""

    temperature: Temperature
    task: NotRequired[Text]
    thresholds: NotRequired[dict[str, Figure]]
    thresholds_for: NotRequired[PrecisionGoal | Text | None]
    fitted_on: NotRequired[Text]
    photos: NotRequired[Count]
    unknown: NotRequired[Unknown | None]
    sure: NotRequired[Sure | None]
    hierarchy: NotRequired[Tree | None]


class Bin(TypedDict):
    """Bar of a reliability diagram."""

    low: NotRequired[Share]
    high: NotRequired[Share]
    photos: Count
    confidence: Measured
    accuracy: Measured


class Calibrated(TypedDict, total=False):
    """Metrics of probabilities."""

    log_loss: Figure
    brier: Figure
    ece: Measured
    adaptive_ece: Measured
    reliability: list[Bin]


class LabelMetrics(TypedDict, total=False):
    """Metrics of a label."""

    photos: Count
    predicted: Count
    threshold: Measured
    precision: Measured
    precision_interval: Interval
    recall: Measured
    recall_interval: Interval
    f1: Measured
    average_precision: Measured


class LevelMetrics(TypedDict):
    """Metrics of a level of a tree of labels."""

    level: Label
    nodes: Count
    right: Count
    photos: Count
    sure: Count
    sure_right: Count


class PartMetrics(Calibrated, total=False):
    """Metrics of a part, of one label per photo or several."""

    photos: Count
    part: Text
    top1: Measured
    top2: Measured
    top3: Measured
    top4: Measured
    top5: Measured
    top1_interval: Interval
    balanced_accuracy: Measured
    balanced_accuracy_interval: Interval
    macro_f1: Measured
    macro_f1_interval: Interval
    micro_f1: Measured
    micro_f1_interval: Interval
    weighted_f1: Measured
    kappa: Figure
    ece_honest: Measured
    ece_honest_high: Measured
    mean_average_precision: Measured
    mean_average_precision_interval: Interval
    micro_average_precision: Measured
    exact_match: Measured
    exact_match_interval: Interval
    hamming_loss: Measured
    labels_a_photo: Figure
    labels_predicted: Figure
    aurc: Figure
    coverage: dict[str, Measured]
    temperature: Figure
    uncalibrated: Calibrated | None
    labels: dict[str, LabelMetrics] | None
    levels: list[LevelMetrics] | None
    mistake_distance: Figure


class TriedModel(TypedDict):
    """Model of a search."""

    model: Name
    size: Annotated[int, Meta(ge=8, le=4096)]
    accuracy: Measured
    log_loss: Figure
    milliseconds: Figure
    skipped: Text | None
    interval: NotRequired[Interval]
    megabytes: NotRequired[Figure]


class ModelSearch(TypedDict):
    """model_search.json."""

    photos: Count
    chosen: Count
    best: Count
    candidates: Annotated[list[TriedModel], Meta(min_length=1, max_length=10_000)]


class FoldOptions(TypedDict, total=False):
    """Options of a cross-validation."""

    folds: Annotated[int, Meta(ge=2, le=1000)]
    final: bool
    keep_models: bool


class Folds(TypedDict):
    """folds.json; `config_io.resolve` checks its settings, which are not resolved yet."""

    photos: FilePath
    settings: dict[str, Any]
    plan: FoldOptions
    finished: bool


class BestTrial(TypedDict):
    """tune.json."""

    trial: Count
    run: FilePath


class CurvePoint(TypedDict):
    """Accuracy of heads on a share of the photos."""

    share: Share
    photos: Count
    accuracy: Share
    interval: Shares


class LabelOutlook(TypedDict):
    """Outlook of a label with twice the photos."""

    label: Count
    photos: Count
    wrong: Count
    fewer: Annotated[float, Meta(ge=0, le=1e12)]


class LookAlikes(TypedDict):
    """Two labels that more photos do not tell apart."""

    labels: Annotated[list[Count], Meta(min_length=2, max_length=2)]
    confused: Annotated[float, Meta(ge=0, le=1e12)]
    before: Annotated[float, Meta(ge=0, le=1e12)]


class Curve(TypedDict):
    """learning_curve.json."""

    points: Annotated[list[CurvePoint], Meta(min_length=2, max_length=100)]
    forecast: Share
    interval: Shares
    gain: Annotated[list[Number], Meta(min_length=2, max_length=2)]
    labels: list[LabelOutlook]
    look_alikes: list[LookAlikes]


class Epoch(TypedDict, total=False):
    """Event of log.jsonl; its losses are not finite where a training diverged."""

    event: Text
    epoch: Count
    epochs: Count
    step: Count
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float | None
    images_per_second: float | None
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    best: bool
    metrics: dict[str, float | None]


SCHEMAS: Mapping[str, Any] = {
    "config.json": Config,
    "labels.json": Annotated[list[Label], Meta(min_length=1, max_length=100_000)],
    "preprocessing.json": Preprocessing,
    "calibration.json": Calibration,
    "metrics.json": dict[str, PartMetrics],
    "model_search.json": ModelSearch,
    "folds.json": Folds,
    "tune.json": BestTrial,
    "learning_curve.json": Curve,
}
"""Schemas by file name."""


def read_validated(file: Path) -> Any:
    """Returns the value of one of a run's JSON files.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It is too large, no JSON, or breaks its schema; the message names the field.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
        value = read_json(file)
        check(file.name, value)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {str(error).rstrip('.')}.") from error
    return value


def check(name: str, value: Any) -> None:
    """Checks a value against the schema of a file name.

    Raises:
        ValueError: It breaks it; the message names the field.
    """
    _check_depth(value)
    if name == "labels.json" and isinstance(value, list):
        check_labels(value)
        return
    try:
        msgspec.convert(value, SCHEMAS.get(name, dict[str, Any]))
    except msgspec.ValidationError as error:
        raise ValueError(_plain(str(error))) from error
    if name == "preprocessing.json":
        _check_preprocessing(value)
    elif name == "calibration.json":
        _check_calibration(value)
    elif name == "model_search.json":
        for field in ("chosen", "best"):
            if value[field] >= len(value["candidates"]):
                raise ValueError(f"`{field}` is none of the `candidates`")


def check_labels(labels: Sequence[str]) -> None:
    """Raises ValueError if labels are not unique text without control characters."""
    try:
        msgspec.convert(list(labels), SCHEMAS["labels.json"])
    except msgspec.ValidationError as error:
        wrong = str(error).rpartition("$[")[2].partition("]")[0]
        shown = repr(labels[int(wrong)])[:100] if wrong.isdigit() else ""
        if shown and "regex" in str(error):
            what = f"the label {shown} is empty, too long or has control characters"
            raise ValueError(what) from error
        raise ValueError(_plain(str(error))) from error
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise ValueError(f"the label {label!r} is listed {times} times")


def is_epoch(event: Any) -> bool:
    """Returns whether a line of log.jsonl has the types and bounds of an event."""
    try:
        msgspec.convert(event, Epoch)
    except (ValueError, RecursionError):  # also of text that is not Unicode
        return False
    return True


def check_distance(tensors: Mapping[str, Any], labels: int) -> None:
    """Raises ValueError unless tensors are those of a distance to the means of some labels."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} has values that are not finite")
    shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
    projection, means = shapes["projection"], shapes["means"]
    fits = (
        len(projection) == len(means) == 2
        and shapes["offset"] == shapes["background"] == projection[1:] == means[1:]
        and 0 < means[0] <= labels
        and shapes.get("neighbors", (1, projection[0]))[1:] == projection[:1]
    )
    if not fits:
        raise ValueError(f"its shapes {shapes} do not fit {labels} labels")


def _check_preprocessing(value: Mapping[str, Any]) -> None:
    channels = value.get("channels", 3)
    for name in ("mean", "std"):
        if len(value[name]) != channels:
            raise ValueError(f"`{name}` has {len(value[name])} values for {channels} channels")
    if value["size"] > MAX_WORKING_SIZE * value["crop_pct"]:
        raise ValueError(f"`crop_pct` {value['crop_pct']} is too small for `size`")


def _check_calibration(value: Mapping[str, Any]) -> None:
    unknown = value.get("unknown")
    if unknown and unknown["score"] == "odds_and_distance" and not unknown.get("mixture"):
        raise ValueError("`unknown.mixture` is missing")
    if strange := set((unknown or {}).get("mixture") or ()) - set(Mixture.__annotations__):
        raise ValueError(f"`unknown.mixture` has no field {reprlib.repr(min(strange))}")
    scores = (unknown or {}).get("known_scores", [])
    if any(first > second for first, second in itertools.pairwise(scores)):
        raise ValueError("`unknown.known_scores` are not in ascending order")
    if value.get("sure"):
        _check_curve("sure", value["sure"])
    tree = value.get("hierarchy")
    if tree:
        levels = len(tree["levels"])
        if any(len(path) != levels for path in tree["paths"]):
            raise ValueError("`hierarchy.paths` has not one node for each level")
        if any(len(row) != levels - 1 for row in (tree["curves"], *tree["answers"].values())):
            raise ValueError("`hierarchy` has not one curve and answer for each level")
        for curve in tree["curves"]:
            _check_curve("hierarchy.curves", curve)
        if not all(target.isdecimal() and len(target) < 3 for target in tree["answers"]):
            raise ValueError("`hierarchy.answers` has a key that is no percentage")


def _check_curve(name: str, curve: Mapping[str, Any]) -> None:
    if len({len(curve[kind]) for kind in ("thresholds", "photos", "right", "groups")}) > 1:
        raise ValueError(f"`{name}` has not equally many values of each kind")
    counts = zip(curve["photos"], curve["right"], curve["groups"], strict=True)
    if any(right > photos or groups > photos for photos, right, groups in counts):
        raise ValueError(f"`{name}.right` or `{name}.groups` is more than `{name}.photos`")


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        if isinstance(item, dict | list):
            _check_depth(item, depth + 1)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"it has a number that is not finite ({item})")


def _plain(message: str) -> str:
    """Returns msgspec's message with the field first: ``$.temperature`` becomes `temperature`."""
    what, _, where = message.partition(" - at `")
    field = where.rstrip("`").removeprefix("$").lstrip(".")
    if "regex" in what:
        what = "has control characters, or no fitting length"
    what = what[0].lower() + what[1:]
    return f"`{field}`: {what}" if field else what
