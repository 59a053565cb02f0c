"""Task of a run: one label per photo, or several. Everything that differs between them is here."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import ArrayLike, NDArray

from finetune.config import CollectionConfig, LabelsConfig
from finetune.data.balance import label_weights
from finetune.evaluation.predictions import EvaluatedPhoto, Prediction
from finetune.evaluation.probabilities import Floats, Integers
from finetune.photos.collection import Collection, Photo

if TYPE_CHECKING:
    # Predicting from an exported file needs no torch.
    import torch
    from torch import Tensor, nn

    Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss, training accuracy and validation score of a training.

    Attributes:
        loss: ``(logits (B, C), targets)`` to the mean loss of the batch in nats.
        correct: ``(logits (B, C), targets)`` to the number of correct photos, a tensor on their
            device: reading its value would synchronize the device in every step.
        score: ``(logits (N, C), targets)`` of all validation photos, on the CPU, to their loss and
            the score that ranks epochs; higher is better.
    """

    loss: Loss
    correct: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """Column of a table of metrics.

    Attributes:
        title: Heading.
        key: Key in metrics.json; ``/`` separates nested keys.
        kind: How its values are written.
        decimals: Of a number.
        note: Explanation.
    """

    title: str
    key: str
    kind: Literal["percent", "number", "interval"] = "percent"
    decimals: int = 3
    note: str = ""


class Task(abc.ABC):
    """One label per photo, or several.

    Attributes:
        multi_label: Whether a photo may have several labels, or none.
        score: Key in metrics.json of the headline score.
        score_title: Its name in headings.
        score_name: Its name after a percentage, as in "93 % right".
        score_note: Its definition, in a sentence.
        photo_score: Key in metrics.json of the share of photos that are entirely right.
        photo_score_name: Its name after a percentage.
        ranks_by_loss: Whether the validation loss chooses the best epoch instead of the score: the
            accuracy of few photos is noisy.
        detects_unknown: Whether photos may be out of distribution; of several labels a photo may
            simply have none.
        activation: Function from logits to probabilities.
        note: Explanation of the figures that a training shows, or None.
        trial_score_note: Definition of the validation score of a trial.
        labels_per_photo: Number of labels of a photo, in words.
        comparison_note: Definition of a correct photo that a comparison of runs shows, or None.
        prediction_attribute: Name of the `PhotoPrediction` attribute with the label or labels.
        part_columns: Main metrics of a part.
        label_columns: Main metrics of a label.
        key_figures: Metrics of a part in a report.
        bin_unit: Unit counted by a bin of the reliability diagram.
        temperature: Divides the logits.
    """

    multi_label: ClassVar[bool]
    score: ClassVar[str]
    score_title: ClassVar[str]
    score_name: ClassVar[str]
    score_note: ClassVar[str]
    photo_score: ClassVar[str]
    photo_score_name: ClassVar[str]
    ranks_by_loss: ClassVar[bool]
    detects_unknown: ClassVar[bool]
    activation: ClassVar[Literal["softmax", "sigmoid"]]
    note: ClassVar[str | None] = None
    trial_score_note: ClassVar[str]
    labels_per_photo: ClassVar[str]
    comparison_note: ClassVar[str | None] = None
    prediction_attribute: ClassVar[str]
    part_columns: ClassVar[tuple[Column, ...]]
    label_columns: ClassVar[tuple[Column, ...]]
    key_figures: ClassVar[tuple[Column, ...]]
    bin_unit: ClassVar[str]

    @property
    @abc.abstractmethod
    def temperature(self) -> float:
        """Temperature that divides the logits."""

    # Photos and targets.

    @abc.abstractmethod
    def select_photos(
        self, collection: Collection, config: CollectionConfig, labels: LabelsConfig
    ) -> tuple[Collection, Sequence[str]]:
        """Returns the photos that can be used, and notes on the others.

        Raises:
            CollectionError: Too few labels, or too few photos of one.
        """

    @abc.abstractmethod
    def match_labels(
        self, collection: Collection, index: Mapping[str, int]
    ) -> tuple[list[Photo], list[Photo], int]:
        """Returns photos of known labels, photos of unknown labels, and the number left out.

        Args:
            collection: Labeled photos.
            index: Position of each known label.
        """

    @abc.abstractmethod
    def target(self, indices: tuple[int, ...]) -> int | tuple[int, ...]:
        """Returns the target of a photo from the indices of its labels."""

    @abc.abstractmethod
    def target_width(self, labels: Sequence[str]) -> int | None:
        """Returns the width of the targets, or None if they are indices."""

    # Training.

    @abc.abstractmethod
    def objective(
        self,
        labels: LabelsConfig | None = None,
        *,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
    ) -> Objective:
        """Returns the objective of a training.

        Args:
            labels: Which loss; None: the default.
            label_smoothing: Used in training only, not in the validation score.
            weight: ``(C,)`` weights of the labels.
        """

    def weighted_objective(
        self,
        labels: LabelsConfig,
        targets: NDArray[Any],
        label_count: int,
        *,
        label_smoothing: float,
    ) -> Objective:
        """Returns the objective, with label weights from the training targets if configured."""
        weight = None
        if labels.balance == "loss":
            import torch

            found = label_weights(targets, label_count, beta=labels.balance_beta)
            weight = torch.tensor(found, dtype=torch.float32)
        return self.objective(labels, label_smoothing=label_smoothing, weight=weight)

    def initialize_head(self, head: nn.Module, targets: NDArray[Any]) -> None:  # noqa: B027
        """Initializes a new head from the training targets; does nothing by default."""

    # Predictions and metrics.

    @abc.abstractmethod
    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns calibrated probabilities ``(N, C)`` of logits ``(N, C)``."""

    @abc.abstractmethod
    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> Task:
        """Returns this task, calibrated on the validation photos."""

    @abc.abstractmethod
    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """Returns all metrics of a part for metrics.json."""

    @abc.abstractmethod
    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns the rows of predictions.csv."""

    @abc.abstractmethod
    def confusion(self, logits: ArrayLike, targets: ArrayLike) -> Integers | None:
        """Returns the confusion matrix ``(C, C)``, or None if photos have several labels."""

    # Files and texts.

    @abc.abstractmethod
    def config_entry(self) -> dict[str, str]:
        """Returns the entry of config.json; `finetune.tasks.factory.task_of_config` reads it."""

    @abc.abstractmethod
    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the entries of calibration.json; see `finetune.tasks.factory.task_of`."""

    @abc.abstractmethod
    def metric_for_hub(self, found: Mapping[str, Any]) -> tuple[str, float]:
        """Returns type and value of the metric in a model card's YAML block."""

    @abc.abstractmethod
    def summary(
        self, model: str, labels: Sequence[str], part: str, found: Mapping[str, Any]
    ) -> str:
        """Returns the first paragraph of a model card.

        Args:
            model: Description of the model.
            labels: The labels.
            part: Name of the evaluated part in text.
            found: Its metrics.
        """

    @abc.abstractmethod
    def calibration_text(self, content: Mapping[str, Any], found: Mapping[str, Any]) -> str:
        """Returns the paragraph of a model card on calibration.json and the metrics of a part."""

    @abc.abstractmethod
    def limits_text(self) -> str:
        """Returns the sentence of a model card on photos of other things."""


def weighted(loss: Callable[..., Tensor], weight: Tensor | None) -> Loss:
    """Returns a loss with label weights, which move to the logits' device once."""
    if weight is None:
        return loss
    on_device: dict[torch.device, Tensor] = {}

    def weighted_loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.device not in on_device:
            on_device[logits.device] = weight.to(logits.device)
        return loss(logits, targets, weight=on_device[logits.device])

    return weighted_loss


def number_text(value: float | None) -> str:
    """Returns a number to three decimals, or an empty string."""
    return "" if value is None else f"{value:.3f}"
