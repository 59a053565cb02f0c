"""Single-label task: each photo has one label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from finetune.config import CollectionConfig, LabelsConfig
from finetune.evaluation.calibration import fit_temperature
from finetune.evaluation.confusion import confusion_matrix
from finetune.evaluation.metrics import evaluate_logits
from finetune.evaluation.predictions import EvaluatedPhoto, Prediction, make_predictions
from finetune.evaluation.probabilities import Floats, Integers, softmax
from finetune.formatting import count, interval, percent
from finetune.messages import marked
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import check_labels
from finetune.tasks.base import Column, Objective, Task, number_text, weighted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SingleLabel(Task):
    """One label per photo; targets are ``(N,) int64``, probabilities a softmax."""

    multi_label: ClassVar[bool] = False
    score: ClassVar[str] = "top1"
    score_title: ClassVar[str] = marked("Accuracy")
    score_name: ClassVar[str] = marked("right")
    score_note: ClassVar[str] = marked("Accuracy is the share of photos with the correct label.")
    photo_score: ClassVar[str] = "top1"
    photo_score_name: ClassVar[str] = marked("right")
    ranks_by_loss: ClassVar[bool] = True
    detects_unknown: ClassVar[bool] = True
    activation: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"
    trial_score_note: ClassVar[str] = "Right: share of the validation photos."
    labels_per_photo: ClassVar[str] = marked("one label per photo")
    prediction_attribute: ClassVar[str] = "label"
    part_columns: ClassVar[tuple[Column, ...]] = (
        Column(title="right", key="top1"),
        Column(title="95 % interval", key="top1_interval", kind="interval"),
        Column(title="balanced", key="balanced_accuracy"),
        Column(title="log loss", key="log_loss", kind="number"),
        Column(title="calibration error", key="ece", kind="number"),
    )
    label_columns: ClassVar[tuple[Column, ...]] = (
        Column(title="precision", key="precision"),
        Column(title="recall", key="recall"),
    )
    key_figures: ClassVar[tuple[Column, ...]] = (
        Column(
            title=marked("Top-5 accuracy"),
            key="top5",
            note=marked("the correct label is among the five most likely"),
        ),
        Column(
            title=marked("Balanced accuracy"),
            key="balanced_accuracy",
            note=marked("mean recall over labels: each label counts the same"),
        ),
        Column(
            title=marked("Macro F1"),
            key="macro_f1",
            note=marked("mean F1 over labels, which combines precision and recall"),
        ),
        Column(
            title=marked("Coverage at 95 %"),
            key="coverage/0.95",
            note=marked(
                "share of photos it can label, most confident first, with 95 in 100 correct"
            ),
        ),
        Column(
            title=marked("Calibration error"),
            key="ece",
            note=marked("mean gap between confidence and accuracy (ECE)"),
        ),
        Column(
            title=marked("Log loss"),
            key="log_loss",
            kind="number",
            note=marked("in nats; 0 is perfect"),
        ),
        Column(
            title=marked("Brier score"),
            key="brier",
            kind="number",
            note=marked("0 is perfect, 2 the worst"),
        ),
        Column(
            title=marked("Cohen's kappa"),
            key="kappa",
            kind="number",
            note=marked("agreement beyond chance; 1 is perfect"),
        ),
        Column(
            title=marked("mAP"),
            key="mean_average_precision",
            note=marked("mean average precision over labels"),
        ),
        Column(
            title=marked("AURC"),
            key="aurc",
            kind="number",
            decimals=4,
            note=marked(
                "mean error rate if it labels only the most confident photos; 0 is perfect"
            ),
        ),
    )
    bin_unit: ClassVar[str] = marked("photos")

    temperature: float = 1.0

    def select_photos(
        self, collection: Collection, config: CollectionConfig, labels: LabelsConfig
    ) -> tuple[Collection, Sequence[str]]:
        """Returns the photos with one label, and a note on those with several."""
        usable, notes = _without_conflicts(collection)
        return check_labels(usable, min_photos=config.min_photos), notes

    def match_labels(
        self, collection: Collection, index: Mapping[str, int]
    ) -> tuple[list[Photo], list[Photo], int]:
        """Returns photos of known and of unknown labels; those without one label are left out."""
        labeled = [photo for photo in collection.photos if len(photo.labels) == 1]
        known = [photo for photo in labeled if photo.labels[0] in index]
        unknown = [photo for photo in labeled if photo.labels[0] not in index]
        return known, unknown, len(collection) - len(labeled)

    def target(self, indices: tuple[int, ...]) -> int:
        """Returns the index of the label."""
        return indices[0]

    def target_width(self, labels: Sequence[str]) -> None:
        """Returns None: targets are indices."""

    def objective(
        self,
        labels: LabelsConfig | None = None,
        *,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
    ) -> Objective:
        """Returns the objective with cross-entropy; epochs are scored by accuracy."""
        from finetune.tasks.losses import cross_entropy

        return Objective(
            loss=weighted(partial(cross_entropy, label_smoothing=label_smoothing), weight),
            correct=count_correct,
            score=log_loss_and_accuracy,
        )

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns ``softmax(logits / temperature)``."""
        return softmax(logits, temperature=self.temperature)

    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> SingleLabel:
        """Returns the task with the temperature fitted on these photos."""
        return dataclasses.replace(self, temperature=fit_temperature(logits, targets))

    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """See `finetune.evaluation.metrics.evaluate_logits`."""
        return evaluate_logits(logits, targets, labels, temperature=self.temperature)

    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns a row per photo with its likeliest labels."""
        return make_predictions(photos, logits, targets, labels, temperature=self.temperature)

    def confusion(self, logits: ArrayLike, targets: ArrayLike) -> Integers:
        """Returns the confusion matrix ``(C, C)``."""
        values = np.asarray(logits)
        return confusion_matrix(targets, values.argmax(axis=1), values.shape[1])

    def config_entry(self) -> dict[str, str]:
        """Returns no entry: a single label is the default."""
        return {}

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the temperature."""
        return {"temperature": self.temperature}

    def metric_for_hub(self, found: Mapping[str, Any]) -> tuple[str, float]:
        """Returns the accuracy."""
        return "accuracy", found["top1"]

    def summary(
        self, model: str, labels: Sequence[str], part: str, found: Mapping[str, Any]
    ) -> str:
        """Returns the number of labels and the accuracy."""
        ends = interval(found.get("top1_interval"))
        return (
            f"An image classifier of {len(labels)} labels: a {model}. On {found['photos']:,} "
            f"{part} photos it is right {percent(found['top1'])} of the time"
            f"{f' (95 % interval {ends})' if ends else ''}."
        )

    def calibration_text(self, content: Mapping[str, Any], found: Mapping[str, Any]) -> str:
        """Returns the temperature and calibration errors."""
        text = (
            f"Probabilities are softmax(logits / {content['temperature']:.4g}); the temperature "
            f"was fitted on {content.get('photos', 0):,} {content.get('fitted_on', 'validation')} "
            f"photos. Expected calibration error: {number_text(found.get('ece'))} "
            f"({number_text((found.get('uncalibrated') or {}).get('ece'))} before)."
        )
        if found.get("ece_honest") is not None:
            expected = number_text(found["ece_honest"])
            text += f" A perfectly calibrated model of this size: {expected} by chance."
        return text

    def limits_text(self) -> str:
        """Returns the limits of a single label."""
        return (
            "It predicts no label but those above. A photo of anything else gets one of them, "
            "unless it is recognized as unknown."
        )


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the number of ``(B, C)`` logits with the same argmax as the target.

    Args:
        logits: ``(B, C)``.
        targets: ``(B,)`` labels, or ``(B, C)`` probabilities.
    """
    hard = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits.argmax(1) == hard).sum()


def log_loss_and_accuracy(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns mean log loss in nats and accuracy of logits ``(N, C)`` on targets ``(N,)``."""
    from torch.nn import functional

    loss = functional.cross_entropy(logits.double(), targets)
    accuracy = (logits.argmax(1) == targets).double().mean()
    return float(loss), float(accuracy)


def _without_conflicts(collection: Collection) -> tuple[Collection, list[str]]:
    """Leaves out photos with several labels, and contents that are filed under several."""
    labels_of: dict[str, set[str]] = {}
    for photo in collection.photos:
        labels_of.setdefault(photo.digest, set()).update(photo.labels)
    kept = tuple(p for p in collection.photos if len(labels_of[p.digest]) <= 1)
    lost = [p for p in collection.photos if len(labels_of[p.digest]) > 1]
    if not lost:
        return collection, []
    first = lost[0]
    names = " and ".join(f"'{label}'" for label in sorted(labels_of[first.digest]))
    note = (
        f"{count(len(lost), 'photo is', 'photos are')} under more than one label "
        f"and left out, {first.path} ({names}) among them. Resolve them with: finetune annotate"
    )
    return dataclasses.replace(collection, photos=kept), [note]
