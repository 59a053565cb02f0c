"""Multi-label task: a photo has any number of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.config import CollectionConfig, LabelsConfig
from finetune.data.balance import prior_logits
from finetune.evaluation.metrics import average_precisions, defined_mean
from finetune.evaluation.multi_label_metrics import (
    check_multilabel,
    evaluate_multilabel,
    fit_sigmoid_temperature,
    multilabel_log_loss,
)
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    Prediction,
    make_multilabel_predictions,
)
from finetune.evaluation.probabilities import Floats, sigmoid
from finetune.evaluation.thresholds import DEFAULT_THRESHOLD, NEVER, fit_thresholds
from finetune.formatting import given_percent, interval, percent
from finetune.messages import marked
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import merge_copies, multilabel_photos
from finetune.tasks.base import Column, Objective, Task, number_text, weighted

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "multi-label"
"""Value of ``task`` in config.json and calibration.json; absent for a single label."""


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Any number of labels per photo; targets are ``(N, C)`` of 0 and 1, probabilities sigmoids.

    Attributes:
        thresholds: Probability from which on each label is predicted; None: 0.5 for all.
        precision: Precision of each label that the thresholds are fitted for; None: the best F1.
    """

    multi_label: ClassVar[bool] = True
    # Needs no thresholds, which are fitted after the training.
    score: ClassVar[str] = "mean_average_precision"
    score_title: ClassVar[str] = marked("Mean average precision")
    score_name: ClassVar[str] = marked("mAP")
    score_note: ClassVar[str] = marked(
        "Average precision: of the photos ranked first by the probability of a label, the share "
        "that have it, averaged over the length of the ranking. The mean is over labels."
    )
    photo_score: ClassVar[str] = "exact_match"
    photo_score_name: ClassVar[str] = marked("all labels right")
    ranks_by_loss: ClassVar[bool] = False
    detects_unknown: ClassVar[bool] = False
    activation: ClassVar[Literal["softmax", "sigmoid"]] = "sigmoid"
    note: ClassVar[str | None] = (
        "Each epoch shows the mean average precision on validation; of the training photos, the "
        "share with every label right at 50 %."
    )
    trial_score_note: ClassVar[str] = "mAP: mean average precision on the validation photos."
    labels_per_photo: ClassVar[str] = marked("several labels per photo")
    comparison_note: ClassVar[str | None] = marked(
        "A photo counts as right where exactly its labels are predicted: none missing, none extra."
    )
    prediction_attribute: ClassVar[str] = "labels"
    part_columns: ClassVar[tuple[Column, ...]] = (
        Column(title="mAP", key="mean_average_precision"),
        Column(title="95 % interval", key="mean_average_precision_interval", kind="interval"),
        Column(title="all labels right", key="exact_match"),
        Column(title="macro F1", key="macro_f1"),
        Column(title="micro F1", key="micro_f1"),
        Column(title="wrong yes/no decisions", key="hamming_loss"),
        Column(title="calibration error", key="ece", kind="number"),
    )
    label_columns: ClassVar[tuple[Column, ...]] = (
        Column(title="predicted from", key="threshold"),
        Column(title="precision", key="precision"),
        Column(title="recall", key="recall"),
        Column(title="average precision", key="average_precision"),
    )
    key_figures: ClassVar[tuple[Column, ...]] = (
        Column(
            title=marked("All labels right"),
            key="exact_match",
            note=marked("photos with no label missed and none wrongly predicted"),
        ),
        Column(
            title=marked("Macro F1"),
            key="macro_f1",
            note=marked("mean F1 over labels, which combines precision and recall"),
        ),
        Column(
            title=marked("Micro F1"), key="micro_f1", note=marked("F1 of all labels taken together")
        ),
        Column(
            title=marked("Wrong yes/no answers"),
            key="hamming_loss",
            note=marked(
                "share of wrong answers to all questions whether a photo has a label (Hamming loss)"
            ),
        ),
        Column(
            title=marked("Labels per photo"),
            key="labels_a_photo",
            kind="number",
            decimals=2,
            note=marked("in truth"),
        ),
        Column(
            title=marked("Micro AP"),
            key="micro_average_precision",
            note=marked("average precision of all labels taken together"),
        ),
        Column(
            title=marked("Calibration error"),
            key="ece",
            note=marked("mean gap between probability and frequency (ECE) of all yes/no answers"),
        ),
        Column(
            title=marked("Log loss"),
            key="log_loss",
            kind="number",
            note=marked("in nats per photo, over all labels; 0 is perfect"),
        ),
        Column(
            title=marked("Brier score"),
            key="brier",
            kind="number",
            note=marked("per yes/no answer; 0 is perfect, 1 the worst"),
        ),
    )
    bin_unit: ClassVar[str] = marked("yes/no answers")

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    precision: float | None = None

    def limits(self, labels: int, *, at_least: float = 0.0) -> Floats:
        """Returns the thresholds of C labels, ``(C,)``, none below `at_least`."""
        own = (
            np.full(labels, DEFAULT_THRESHOLD)
            if self.thresholds is None
            else np.array(self.thresholds)
        )
        limits: Floats = np.maximum(own, at_least)
        return limits

    def select_photos(
        self, collection: Collection, config: CollectionConfig, labels: LabelsConfig
    ) -> tuple[Collection, Sequence[str]]:
        """Returns the labeled photos and negatives, and notes on the others."""
        found = multilabel_photos(
            collection, negatives=labels.negatives, min_photos=config.min_photos
        )
        return found.collection, found.notes

    def match_labels(
        self, collection: Collection, index: Mapping[str, int]
    ) -> tuple[list[Photo], list[Photo], int]:
        """Returns labeled photos with their known labels, which may be none."""
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

    def target(self, indices: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the indices."""
        return indices

    def target_width(self, labels: Sequence[str]) -> int:
        """Returns the number of labels."""
        return len(labels)

    def objective(
        self,
        labels: LabelsConfig | None = None,
        *,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
    ) -> Objective:
        """Returns the objective with a sigmoid per label; epochs are scored by mAP."""
        from finetune.tasks.losses import Asymmetry, asymmetric_loss, binary_cross_entropy

        labels = labels or LabelsConfig()
        loss: Callable[..., Tensor]
        score = self.log_loss_and_map
        if labels.multi_label_loss == "asymmetric":
            asymmetry = Asymmetry(
                negative=labels.asymmetric_negative,
                positive=labels.asymmetric_positive,
                margin=labels.asymmetric_margin,
            )
            loss = partial(asymmetric_loss, asymmetry=asymmetry, label_smoothing=label_smoothing)
            # Its probabilities are biased upwards, so that their log loss would prefer the least
            # trained epoch; its own loss is used instead.
            own_loss = partial(asymmetric_loss, asymmetry=asymmetry, label_smoothing=0.0)

            def score(logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
                import torch

                values, truth = torch.as_tensor(logits), torch.as_tensor(targets)
                return float(own_loss(values, truth)), self.log_loss_and_map(logits, targets)[1]

        else:
            loss = partial(binary_cross_entropy, label_smoothing=label_smoothing)
        return Objective(
            loss=weighted(loss, weight),
            correct=count_all_correct,
            score=lambda logits, targets: score(logits.numpy(), targets.numpy()),
        )

    def initialize_head(self, head: nn.Module, targets: NDArray[Any]) -> None:
        """Initializes the bias of a linear head with the label frequencies."""
        import torch

        bias = getattr(head, "bias", None)
        if isinstance(head, torch.nn.Linear) and isinstance(bias, torch.Tensor):
            with torch.no_grad():
                bias.copy_(torch.from_numpy(prior_logits(targets)))

    def log_loss_and_map(self, logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
        """Returns binary log loss in nats per photo, and mAP; 0 without any label."""
        values, positive = check_multilabel(logits, targets)
        mean = defined_mean(average_precisions(values, positive))
        return multilabel_log_loss(values, positive), 0.0 if mean is None else mean

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns ``sigmoid(logits / temperature)``."""
        return sigmoid(logits, temperature=self.temperature)

    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> MultiLabel:
        """Returns the task with temperature and thresholds fitted on these photos."""
        temperature = fit_sigmoid_temperature(logits, targets)
        shares = sigmoid(logits, temperature=temperature)
        thresholds = fit_thresholds(shares, targets, precision=self.precision)
        return dataclasses.replace(self, temperature=temperature, thresholds=thresholds)

    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """See `finetune.evaluation.multi_label_metrics.evaluate_multilabel`."""
        return evaluate_multilabel(
            logits,
            targets,
            labels,
            temperature=self.temperature,
            thresholds=self.limits(len(labels)).tolist(),
        )

    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns a row per photo with all predicted labels."""
        return make_multilabel_predictions(
            photos,
            logits,
            targets,
            labels,
            temperature=self.temperature,
            thresholds=self.limits(len(labels)).tolist(),
        )

    def confusion(self, logits: ArrayLike, targets: ArrayLike) -> None:
        """Returns None: labels of one photo are not confused with each other."""

    def config_entry(self) -> dict[str, str]:
        """Returns the name of the task."""
        return {"task": NAME}

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns temperature and thresholds by label; None for one that is never predicted."""
        limits = self.limits(len(labels)).tolist()
        return {
            "task": NAME,
            "temperature": self.temperature,
            "thresholds": {
                label: None if limit >= NEVER else limit
                for label, limit in zip(labels, limits, strict=True)
            },
            "thresholds_for": {"precision": self.precision} if self.precision else "f1",
        }

    def metric_for_hub(self, found: Mapping[str, Any]) -> tuple[str, float]:
        """Returns the mean average precision."""
        return self.score, found[self.score] or 0.0

    def summary(
        self, model: str, labels: Sequence[str], part: str, found: Mapping[str, Any]
    ) -> str:
        """Returns the number of labels and the mean average precision."""
        score = found[self.score]
        ends = interval(found.get(f"{self.score}_interval"))
        return (
            f"An image tagger of {len(labels)} labels, of which a photo may have several or none: "
            f"a {model}. On {found['photos']:,} {part} photos its mean average precision is "
            f"{'' if score is None else percent(score)}"
            f"{f' (95 % interval {ends})' if ends else ''}."
        )

    def calibration_text(self, content: Mapping[str, Any], found: Mapping[str, Any]) -> str:
        """Returns temperature, thresholds and calibration errors."""
        goal = content.get("thresholds_for")
        aim = (
            f"so that {given_percent(goal['precision'])} of its predictions are right"
            if isinstance(goal, Mapping)
            else "for the best F1"
        )
        before, after = (found.get("uncalibrated") or {}).get("ece"), found.get("ece")
        error = (
            ""
            if after is None
            else f" Expected calibration error of all yes/no decisions: {number_text(after)} "
            f"({number_text(before)} before)."
        )
        return (
            f"Each label's probability is sigmoid(logit / {content['temperature']:.4g}), "
            "independent of the others. A label is predicted from its own threshold on, which was "
            f"chosen {aim}; a photo may have none. Temperature and "
            f"thresholds come from {content.get('photos', 0):,} "
            f"{content.get('fitted_on', 'validation')} photos.{error}"
        )

    def limits_text(self) -> str:
        """Returns the limits of several labels."""
        return "It predicts no label but those above."


def count_all_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the number of photos with every label right at a threshold of 50 %.

    Args:
        logits: ``(B, C)``.
        targets: ``(B, C)`` in [0, 1].
    """
    return ((logits > 0) == (targets > 0.5)).all(1).sum()
