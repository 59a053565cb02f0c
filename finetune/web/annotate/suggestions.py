"""Label suggestions and label errors, from the labels of a session and from a trained run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo
from finetune.web.annotate.features import Features
from finetune.web.annotate.photo_state import CohortOffer, Suggestions
from finetune.web.annotate.session import Session

Array = NDArray[np.float64]

NO_LABEL = ""
"""Prediction that none of the labels fits; `finetune.curation.label_model.NONE`."""

Classifier = Callable[[Sequence[Photo]], tuple[tuple[str, ...], Array, Sequence[str]]]
"""Returns the labels, and the probabilities ``(N, labels)`` and statuses ``(N,)`` of photos."""

CHECK_EVERY = 15
"""Number of new labels after which labels are checked."""

TOP = 4
"""Maximum number of suggestions for a photo."""

COHORT_SIZE = 40
"""Maximum number of photos of a cohort; the page shows as many as fit."""

TEMPERATURE = 0.1
"""Temperature of the softmax over cosines by which labels are ranked."""


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """K photos with one label, or with none of them.

    Attributes:
        positions: ``(K,) int64``.
        labels: Their labels; `NONE` for photos that none of the labels fits.
        groups: Near-duplicate group of each.
    """

    positions: NDArray[np.int64]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, own: Sequence[tuple[str, ...] | None], groups: Sequence[str]) -> Labeled:
        """Returns the photos with one label or none of them.

        Args:
            own: Labels of all photos; None for those without an answer.
            groups: Near-duplicate group of all photos.
        """
        positions = [
            position
            for position, labels in enumerate(own)
            if labels is not None and len(labels) <= 1
        ]
        return cls(
            positions=np.array(positions, np.int64),
            labels=tuple("".join(own[position] or ()) for position in positions),
            groups=tuple(groups[position] for position in positions),
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
    """Predictions for the P photos without a label.

    Attributes:
        labels: Names in the order of the columns; "" for none of the labels.
        probabilities: ``(P, labels)``; the order counts, the numbers are not calibrated.
        ids: Of the P photos.
        shares: ``(P,)``, calibrated share of such photos that have the first label; None: unknown.
        unlike: ``(P,) bool``, whether a photo is unlike all labeled ones.
        cohort: Photos that are safe to label together, or None.
        next_ids: Photos to label next, the most useful first.
        statuses: Status of the run's prediction by photo id; empty without a run.
    """

    labels: tuple[str, ...]
    probabilities: Array
    ids: tuple[str, ...]
    shares: Array | None = None
    unlike: NDArray[np.bool_] | None = None
    cohort: CohortOffer | None = None
    next_ids: tuple[str, ...] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)

    def suggestions(self) -> dict[str, Suggestions]:
        """Returns the suggestions by photo id."""
        from finetune.curation.next_photos import uncertainty

        if not self.labels:
            return {}
        uncertainties = uncertainty(self.probabilities)
        return {
            photo_id: Suggestions(
                ranked=_ranked(self.labels, self.probabilities[row]),
                share=None if self.shares is None else round(float(self.shares[row]), 2),
                unlike=self.unlike is not None and bool(self.unlike[row]),
                uncertainty=round(float(uncertainties[row]), 2),
                status=self.statuses.get(photo_id),
            )
            for row, photo_id in enumerate(self.ids)
        }


class Suggester:
    """Suggestions by the labels of a session, and by a trained run if there is one.

    Attributes:
        run_labels: Labels of the run; () without one.
    """

    def __init__(self) -> None:
        self.run_labels: tuple[str, ...] = ()
        self._by_run: dict[str, Array] = {}
        self._statuses: dict[str, str] = {}
        self._held_out: dict[str, tuple[tuple[str, ...], Array]] = {}
        self._checked = 0
        self._cohorts = 0

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
        self,
        features: Features,
        labeled: Labeled,
        offered: Sequence[str],
        is_open: NDArray[np.bool_],
        *,
        next_count: int = 20,
    ) -> Predictions:
        """Returns predictions for the photos without a label.

        Args:
            features: Features of all photos.
            labeled: The labeled photos among them.
            offered: Labels in display order.
            is_open: ``(N,)``, whether a photo waits for a label.
            next_count: Number of photos to choose for labeling next.
        """
        from finetune.curation.cohorts import find_cohort
        from finetune.curation.label_model import LabelModel
        from finetune.curation.next_photos import balance, select_next

        positions = np.flatnonzero(is_open)
        ids = tuple(features.ids[position] for position in positions.tolist())
        names = tuple(label for label in (*offered, NO_LABEL) if label in set(labeled.labels))
        learned = names if len(names) >= 2 else ()
        known = tuple(dict.fromkeys((*self.run_labels, *learned)))
        known = tuple(sorted(known, key=[*offered, *known].index))
        by_labels = shares = unlike = priority = cohort = None
        if learned:
            column = {name: number for number, name in enumerate(names)}
            model = LabelModel(
                features.rows,
                labeled.positions,
                np.array([column[label] for label in labeled.labels], np.int64),
                labeled.groups,
                names,
                offered=len(set(offered) - set(names)),
            )
            scores = model.scores(positions)
            by_labels = _softmax(scores.cosines / TEMPERATURE)
            calibration = model.calibration()
            shares = calibration.shares(scores.values, scores.labels)
            priority = balance(model.counts, scores.labels, shares)
            if shares is not None and calibration.least_right is not None:
                unlike = scores.values < calibration.least_right
            found = find_cohort(model, scores, calibration, positions, most=COHORT_SIZE)
            if found is not None:
                self._cohorts += 1
                cohort = CohortOffer(
                    number=self._cohorts,
                    ids=tuple(features.ids[position] for position in found.positions),
                    labels=tuple(names[label] for label in found.labels),
                )
        probabilities = self._mean(by_labels, names, known, ids)
        if self.run_labels:
            # The calibration is that of the labels alone.
            shares = unlike = None
        chosen = select_next(
            features.rows, labeled.positions, positions, priority=priority, count=next_count
        )
        return Predictions(
            labels=known,
            probabilities=probabilities,
            ids=ids,
            shares=shares,
            unlike=unlike,
            cohort=cohort,
            next_ids=tuple(features.ids[position] for position in chosen),
            statuses=self._statuses,
        )

    def _mean(
        self,
        by_labels: Array | None,
        names: Sequence[str],
        known: Sequence[str],
        ids: Sequence[str],
    ) -> Array:
        """Returns the mean of the predictions by labels and by the run, ``(P, known)``."""
        members: list[Array] = []
        if by_labels is not None:
            members.append(_columns(by_labels, names, known))
        if self.run_labels and ids:
            by_run = np.stack([self._by_run[photo_id] for photo_id in ids])
            members.append(_columns(by_run, self.run_labels, known))
        if not members:
            return np.zeros((len(ids), len(known)))
        mean: Array = np.mean(members, axis=0)
        return mean

    def check_labels(
        self,
        features: Features,
        labeled: Labeled,
        progress: Callable[..., None],
    ) -> bool:
        """Predicts the labeled photos by cross-validation if enough labels are new.

        Args:
            features: Features of all photos.
            labeled: The labeled photos among them; groups are held out as a whole.
            progress: Called repeatedly; an exception that it raises stops the check.

        Returns:
            Whether the labels were checked.
        """
        given = [place for place, label in enumerate(labeled.labels) if label]
        labels = [labeled.labels[place] for place in given]
        groups = [labeled.groups[place] for place in given]
        positions = labeled.positions[given]
        count = len(labels)
        if abs(count - self._checked) < CHECK_EVERY or not _can_hold_out(labels, groups):
            return False
        self._checked = count
        from finetune.curation.label_errors import find_label_errors

        rows = features.rows[positions].astype(np.float32)
        found = find_label_errors(rows, labels, groups, progress=progress)
        self._held_out = {
            features.ids[position]: (found.labels, row)
            for position, row in zip(positions.tolist(), found.probabilities, strict=True)
            if not np.isnan(row).any()
        }
        return True

    def disagreements(
        self, ids: Sequence[str], own: Sequence[tuple[str, ...] | None]
    ) -> dict[str, Suggestions]:
        """Returns the suggestions for photos with labels, given the labels of each photo.

        Photos that have not been checked are predicted by the run.
        """
        result = {}
        for photo_id, labels in zip(ids, own, strict=True):
            if labels is None:
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


def _ranked(labels: Sequence[str], row: Array) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-row, kind="stable")[:TOP].tolist()
    return tuple((labels[i], round(float(row[i]), 2)) for i in best)


def _softmax(values: NDArray[np.floating]) -> Array:
    exponentials = np.exp((values - values.max(axis=1, keepdims=True)).astype(np.float64))
    shares: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


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
