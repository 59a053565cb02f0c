"""Types of the JSON documents that commands print with ``--json``.

They are a promise (docs/stability.md): keys are added, not removed or renamed. The schemas in
docs/schemas are made from them. Commands do not import this module; tests compare the documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from finetune.diagnostics.diagnosis import Diagnosis
from finetune.experiments.ablate import Arm
from finetune.experiments.ablate import Difference as ArmDifference
from finetune.experiments.lr_find import LearningRateResult
from finetune.experiments.tune.study import Trial
from finetune.models.recommended import ListedModel
from finetune.models.summary import NetworkSummary
from finetune.photos.issues import Issue, LabelRow
from finetune.photos.split.leakage import Tally
from finetune.prediction.predictions import PredictionJson
from finetune.reporting.comparison import Disagreement, Followed, LabelChange
from finetune.reporting.comparison import Row as ComparedRun
from finetune.runs.validation import Epoch, PartMetrics
from finetune.runs.validation import SplitProof as SplitSummary

Metrics = dict[str, PartMetrics]


class BadFile(TypedDict):
    """File that cannot be opened."""

    path: str
    reason: str


class ScanDocument(TypedDict):
    """finetune scan."""

    root: str
    photos: int
    has_parts: bool
    labels: list[LabelRow]
    problems: list[BadFile]
    issues: list[Issue]
    html: str | None


class DuplicatePhoto(TypedDict):
    """Photo of a group; `kind` says how it resembles `duplicate_of`, or is ``best``."""

    path: str
    labels: list[str]
    kind: str
    distance_bits: int | None
    duplicate_of: str | None
    width: int
    height: int
    sharpness: float | None


class DuplicateGroup(TypedDict):
    """Near-duplicates, best photo first."""

    labels: list[str]
    contradicts: bool
    photos: list[DuplicatePhoto]


class FeaturePair(TypedDict):
    """Two photos that are near-duplicates by features alone; `similarity` is their cosine."""

    paths: list[str]
    labels: list[list[str]]
    similarity: float


class DuplicatesDocument(TypedDict, total=False):
    """finetune duplicates; with --undo `restored` and `problems` alone."""

    photos: int
    groups: list[DuplicateGroup]
    feature_pairs: list[FeaturePair]
    feature_proof: str
    html: str
    moved: Any
    restored: list[str]
    problems: list[list[str]]


class SimilarPhoto(TypedDict):
    """Photo of the pool; `placed` is its copy, with --to."""

    path: str
    labels: list[str]
    similarity: float
    nearest_seed: str
    placed: NotRequired[str]


class SimilarDocument(TypedDict):
    """finetune similar."""

    seeds: list[str]
    pool: int
    photos: list[SimilarPhoto]
    problems: list[list[str]]
    html: NotRequired[str]


class CropRow(TypedDict):
    """Crop of a photo, relative to its sides."""

    path: str
    crop: dict[str, float]
    by: str | None


class CropDocument(TypedDict):
    """finetune crop."""

    photos: int
    crops: list[CropRow]
    undone: NotRequired[int]
    cleared: NotRequired[int]
    accepted: NotRequired[int]
    proposed: NotRequired[int]
    kept: NotRequired[int]
    nothing_found: NotRequired[list[str]]
    problems: NotRequired[list[list[str]]]
    written: NotRequired[Any]


class SplitPhoto(TypedDict):
    """Row of a split."""

    path: str
    label: list[str]
    group: str
    part: str


class Proof(SplitSummary):
    """Check of a split; `holds` if no group is in two parts."""

    holds: bool


class SplitDocument(TypedDict, total=False):
    """finetune split; the keys after `rows` are those of --folds and --audit."""

    parts: dict[str, int]
    labels: dict[str, dict[str, int]]
    proof: Proof
    imbalances: list[str]
    notes: list[str]
    rows: list[SplitPhoto]
    folds: list[Any]
    always_train: int
    with_duplicate: Tally
    without_duplicate: Tally
    flattered_points: float | None
    ungrouped: dict[str, int]


class KeptLabels(TypedDict):
    """Photo whose own labels an import does not replace."""

    path: str
    labels: list[str]


class ImportDocument(TypedDict, total=False):
    """finetune import, of a table or of a data set."""

    format: str
    dry_run: bool
    notes: list[str]
    labeled: int
    same: int
    kept: list[KeptLabels]
    unknown: list[str]
    unlabeled: int
    folder: str
    photos: int
    labels: dict[str, int]
    renamed: dict[str, str]


class ExportPhotosDocument(TypedDict):
    """finetune export-photos."""

    folder: str
    files: int
    tables: list[str]
    unlabeled: int
    renamed: dict[str, str]
    collisions: list[list[str]]
    contradictions: list[list[str]]
    problems: list[list[str]]


class PreviewDocument(TypedDict):
    """finetune preview."""

    png: str
    html: str
    photos: list[str]
    pipeline: NotRequired[str]


class TrainDocument(TypedDict, total=False):
    """finetune train; with --folds the results of `finetune.cross_validate`."""

    run: str
    metrics: Metrics
    best_epoch: int | None
    seconds: float
    interrupted: bool
    weights: str


class DemoPrediction(PredictionJson):
    """Prediction of a new photo, with the drawn species."""

    truth: str


class DemoDocument(TypedDict):
    """finetune demo."""

    photos: str
    run: str
    metrics: Metrics
    seconds: float
    unseen: list[DemoPrediction]


class EvaluateDocument(TypedDict, total=False):
    """finetune evaluate; a document an epoch with --follow."""

    folder: str | None
    metrics: Metrics
    unknown_labels: Any
    left_out: Any
    statuses: Any
    epoch: int


class ReportDocument(TypedDict):
    """finetune report; `failed` has the reasons of photos that could not be opened."""

    report: str
    part: str
    photos: int
    shown: int
    failed: dict[str, str]
    bytes: int
    images: list[str]


class ComparedPair(TypedDict):
    """First run against another."""

    first: str
    second: str
    both: int
    neither: int
    only_first: list[Disagreement]
    only_second: list[Disagreement]
    difference: float
    difference_interval: list[float]
    p_value: float
    labels: list[LabelChange]
    verdict: str


class CompareDocument(TypedDict):
    """finetune compare."""

    photos: int
    notes: list[str]
    rows: list[ComparedRun]
    settings: dict[str, list[Any]]
    pairs: list[ComparedPair]
    followed: list[Followed]
    left_out: NotRequired[Any]


class ExportDocument(TypedDict, total=False):
    """finetune export; with --push `address` alone."""

    path: str
    bytes: int
    format: str
    precision: str
    photos: int
    largest_difference: float
    same_label: float
    original_size_difference: float | None
    address: str


class AblateDocument(TypedDict):
    """finetune ablate."""

    folder: str
    over: str
    part: str
    multi_label: bool
    arms: list[Arm]
    differences: list[ArmDifference]


class TuneDocument(TypedDict):
    """finetune tune."""

    folder: str
    study: str
    storage: str
    trials: list[Trial]
    best: list[int]
    importances: dict[str, float]
    best_file: str | None
    final: str | None
    final_metrics: Any
    multi_label: bool
    interrupted: bool
    page: str | None


class WatchLine(Epoch, total=False):
    """Line of finetune watch: an epoch with the state of the run, or an evaluation."""

    state: str


DOCUMENTS: Mapping[str, Any] = {
    "ablate": AblateDocument,
    "annotate": dict[str, str] | list[Any],
    "compare": CompareDocument,
    "crop": CropDocument,
    "demo": DemoDocument,
    "doctor": Diagnosis,
    "duplicates": DuplicatesDocument,
    "evaluate": EvaluateDocument,
    "export": ExportDocument,
    "export-photos": ExportPhotosDocument,
    "import": ImportDocument,
    "lr-find": LearningRateResult,
    "models": list[ListedModel],
    "predict": list[PredictionJson],
    "preview": PreviewDocument,
    "report": ReportDocument,
    "scan": ScanDocument,
    "similar": SimilarDocument,
    "split": SplitDocument,
    "summary": NetworkSummary,
    "train": TrainDocument,
    "tune": TuneDocument,
    "watch": WatchLine,
}
"""Type of the document of each command that has ``--json``."""
