"""Label suggestions and label errors, from the labels of a session and from a trained run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo
from finetune.web.annotate.features import Features
from finetune.web.annotate.photo_index import Suggestions
from finetune.web.annotate.session import Session

if TYPE_CHECKING:
    from finetune.curation.logistic_regression import LinearClassifier

Array = NDArray[np.float64]

Classifier = Callable[[Sequence[Photo]], tuple[tuple[str, ...], Array, Sequence[str]]]
"""Returns the labels, and the probabilities ``(N, labels)`` and statuses ``(N,)`` of photos."""

REFIT_EVERY = 15
"""Number of new labels after which the head is refitted and labels are checked."""

MIN_LABELED = 8
"""Minimum number of labeled photos for a head; with fewer, only nearest neighbors are used."""

TOP = 4
"""Maximum number of suggestions for a photo."""

COHORT_SIZE = 24
COHORT_MIN_PROBABILITY = 0.6


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """K photos with exactly one label: ``positions (K,) int64``, and their labels."""

    positions: NDArray[np.int64]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, own: Sequence[tuple[str, ...]]) -> Labeled:
        """Returns the photos with one label, given the labels of all photos."""
        positions = [position for position, labels in enumerate(own) if len(labels) == 1]
        return cls(
            positions=np.array(positions, np.int64),
            labels=tuple(own[position][0] for position in positions),
        )


def run_classifier(run: str, session: Session) -> Classifier:
    """Returns a function that classifies photos of a session by a trained run.

    Raises:
        RunError: There is no such run, or it is damaged.
    """
    from finetune.prediction.predictor import Predictor

    predictor = Predictor.load(run)

    def classify(photos: Sequence[Photo]) -> tuple[tuple[str, ...], Array, Sequence[str]]:
        predictions = predictor.predict_batch([session.root / photo.path for photo in photos])
        shape = (len(predictions), len(predictor.labels))
        probabilities = np.full(shape, 1 / len(predictor.labels))
        for row, prediction in zip(probabilities, predictions, strict=True):
            by_label = {item.label: item.probability for item in prediction.ranked}
            if by_label:
                row[:] = [by_label[label] for label in predictor.labels]
        return predictor.labels, probabilities, [item.status for item in predictions]

    return classify


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Label probabilities ``(N, labels)`` of the N photos in `features`.

    Attributes:
        statuses: Status of the run's prediction by photo id; empty without a run.
    """

    labels: tuple[str, ...]
    probabilities: Array
    features: Features
    statuses: Mapping[str, str] = field(default_factory=dict)

    def suggestions(self, positions: NDArray[np.int64]) -> dict[str, Suggestions]:
        """Returns the suggestions for some positions, by photo id."""
        from finetune.curation.suggestions import uncertainty

        uncertainties = uncertainty(self.probabilities)
        return {
            self.features.ids[position]: Suggestions(
                ranked=_ranked(self.labels, self.probabilities[position]),
                uncertainty=round(float(uncertainties[position]), 2),
                status=self.statuses.get(self.features.ids[position]),
            )
            for position in positions.tolist()
        }

    def cohort(self, photo_id: str, is_open: Callable[[str], bool]) -> tuple[str | None, list[str]]:
        """Returns a photo's suggested label, and the ids of similar photos that probably have it.

        The photo itself is first; `is_open` selects the others.
        """
        ids = self.features.ids
        if photo_id not in ids:
            return None, []
        at = ids.index(photo_id)
        label = int(self.probabilities[at].argmax())
        likeliest = self.probabilities.argmax(axis=1) == label
        fits = likeliest & (self.probabilities[:, label] >= COHORT_MIN_PROBABILITY)
        chosen = [photo_id]
        if fits[at]:
            for position in self.features.nearest(photo_id):
                if fits[position] and position != at and is_open(ids[position]):
                    chosen.append(ids[position])
                if len(chosen) == COHORT_SIZE:
                    break
        return self.labels[label], chosen


class Suggester:
    """Suggestions by nearest neighbors, a linear head, and a trained run if there is one.

    Attributes:
        run_labels: Labels of the run; () without one.
    """

    def __init__(self) -> None:
        self.run_labels: tuple[str, ...] = ()
        self._by_run: dict[str, Array] = {}
        self._statuses: dict[str, str] = {}
        self._head: LinearClassifier | None = None
        self._fitted_on = 0
        self._held_out: dict[str, tuple[tuple[str, ...], Array]] = {}
        self._checked = 0

    def add_run(
        self,
        ids: Sequence[str],
        labels: tuple[str, ...],
        probabilities: Array,
        statuses: Sequence[str] = (),
    ) -> None:
        """Adds the probabilities ``(N, labels)`` and statuses of N photos by the run."""
        self.run_labels = labels
        self._statuses |= dict(zip(ids, statuses, strict=False))
        self._by_run |= dict(zip(ids, probabilities, strict=True))

    def predict(
        self, features: Features, labeled: Labeled, offered: Sequence[str]
    ) -> Predictions | None:
        """Returns the mean of nearest neighbors, head and run.

        `offered` are the labels in display order. None with fewer than two labels and no run.
        """
        from finetune.curation.suggestions import neighbor_probabilities

        has_two_labels = len(set(labeled.labels)) >= 2
        known = {*self.run_labels, *(labeled.labels if has_two_labels else ())}
        names = tuple(label for label in offered if label in known)
        if not names:
            return None
        members: list[Array] = []
        if has_two_labels:
            rows = features.rows[labeled.positions]
            column = {name: number for number, name in enumerate(names)}
            targets = np.array([column[label] for label in labeled.labels], np.int64)
            members.append(neighbor_probabilities(features.rows, rows, targets, len(names)))
            head = self._fitted_head(rows, labeled.labels)
            if head is not None:
                members.append(_columns(head.probabilities(features.rows), head.labels, names))
        if self.run_labels:
            by_run = np.stack([self._by_run[photo_id] for photo_id in features.ids])
            members.append(_columns(by_run, self.run_labels, names))
        return Predictions(
            labels=names,
            probabilities=np.mean(members, axis=0),
            features=features,
            statuses=self._statuses,
        )

    def check_labels(
        self,
        features: Features,
        labeled: Labeled,
        groups: Sequence[str],
        progress: Callable[..., None],
    ) -> bool:
        """Predicts the labeled photos by cross-validation if enough labels are new.

        Args:
            features: Features of all photos.
            labeled: The labeled photos among them.
            groups: Near-duplicate group of each labeled photo; groups are held out as a whole.
            progress: Called repeatedly; an exception that it raises stops the check.

        Returns:
            Whether the labels were checked.
        """
        count = len(labeled.labels)
        if abs(count - self._checked) < REFIT_EVERY or not _can_hold_out(labeled.labels, groups):
            return False
        self._checked = count
        from finetune.curation.label_errors import find_label_errors

        rows = features.rows[labeled.positions]
        found = find_label_errors(rows, labeled.labels, groups, progress=progress)
        self._held_out = {
            features.ids[position]: (found.labels, row)
            for position, row in zip(labeled.positions.tolist(), found.probabilities, strict=True)
            if not np.isnan(row).any()
        }
        return True

    def disagreements(
        self, ids: Sequence[str], own: Sequence[tuple[str, ...]]
    ) -> dict[str, Suggestions]:
        """Returns the suggestions for photos with labels, given the labels of each photo.

        Photos that have not been checked are predicted by the run.
        """
        result = {}
        for photo_id, labels in zip(ids, own, strict=True):
            if not labels:
                continue
            names, row = self._held_out.get(photo_id, ((), np.zeros(0)))
            if not names and self.run_labels:
                names, row = self.run_labels, self._by_run[photo_id]
            given = sum(float(row[names.index(label)]) for label in labels if label in names)
            result[photo_id] = Suggestions(
                ranked=_ranked(names, row),
                disagreement=round(1 - given, 2) if names else None,
            )
        return result

    def _fitted_head(
        self, rows: NDArray[np.float32], labels: Sequence[str]
    ) -> LinearClassifier | None:
        if len(labels) < MIN_LABELED:
            self._head, self._fitted_on = None, 0
        elif self._head is None or abs(len(labels) - self._fitted_on) >= REFIT_EVERY:
            from finetune.curation.logistic_regression import fit_classifier

            self._head, self._fitted_on = fit_classifier(rows, labels), len(labels)
        return self._head


def _ranked(labels: Sequence[str], row: Array) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-row, kind="stable")[:TOP].tolist()
    return tuple((labels[i], round(float(row[i]), 2)) for i in best)


def _can_hold_out(labels: Sequence[str], groups: Sequence[str]) -> bool:
    """Returns whether there are at least two labels, and one of them has at least two groups."""
    pairs = set(zip(labels, groups, strict=True))
    return len(pairs) > len(set(labels)) > 1


def _columns(probabilities: Array, labels: Sequence[str], names: Sequence[str]) -> Array:
    """Returns the columns for `names`; zero for a name that is not among `labels`."""
    result = np.zeros((len(probabilities), len(names)))
    for column, name in enumerate(names):
        if name in labels:
            result[:, column] = probabilities[:, labels.index(name)]
    return result
