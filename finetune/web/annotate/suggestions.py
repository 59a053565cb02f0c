"""What labels the machine suggests for photos, by the labels that others have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo
from finetune.web.annotate.features import Features
from finetune.web.annotate.photo_index import Advice
from finetune.web.annotate.session import Session

if TYPE_CHECKING:
    from finetune.curation.logistic_regression import QuickHead


HEAD_EVERY = 15
"""A head is trained again after so many labels more; until the first, neighbors decide alone."""

HEAD_LEAST = 8
"""Labeled photos, at least, before a head is trained."""

TOP = 4
"""Suggestions that a photo is shown with."""

COHORT = 24
COHORT_LEAST = 0.6


@dataclass(frozen=True, kw_only=True)
class Known:
    """The photos that have one label: where they are among all, and which it is.

    Attributes:
        places: ``(K,) int64``.
        labels: Of these photos.
    """

    places: NDArray[np.int64]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, own: Sequence[tuple[str, ...]]) -> Known:
        """Returns them, given the labels of all photos."""
        places = [place for place, labels in enumerate(own) if len(labels) == 1]
        return cls(
            places=np.array(places, np.int64), labels=tuple(own[place][0] for place in places)
        )


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What the machine thinks at one moment.

    Attributes:
        labels: The columns of `probabilities`.
        probabilities: ``(N, labels)``, rows as in `features`.
        features: Of the same photos.
    """

    labels: tuple[str, ...]
    probabilities: Array
    features: Features

    def advice(self, places: NDArray[np.int64]) -> dict[str, Advice]:
        """Returns suggestions for the photos at some places, by id."""
        from finetune.curation import suggestions

        doubts = suggestions.uncertainty(self.probabilities)
        ranked = suggestions.ranked(self.probabilities[places], self.labels, top=TOP)
        return {
            self.features.ids[place]: Advice(
                ranked=tuple((item.label, round(item.probability, 2)) for item in items),
                uncertainty=round(float(doubts[place]), 2),
            )
            for place, items in zip(places.tolist(), ranked, strict=True)
        }

    def cohort(self, photo_id: str, is_open: Callable[[str], bool]) -> tuple[str | None, list[str]]:
        """Returns the suggested label of a photo and its look-alikes that probably show it, too.

        Args:
            photo_id: The photo; it comes first.
            is_open: Whether a photo may be among the others.
        """
        ids = self.features.ids
        if photo_id not in ids:
            return None, []
        at = ids.index(photo_id)
        label = int(self.probabilities[at].argmax())
        likeliest = self.probabilities.argmax(axis=1) == label
        fits = likeliest & (self.probabilities[:, label] >= COHORT_LEAST)
        chosen = [photo_id]
        if fits[at]:
            for place in self.features.nearest_places(photo_id):
                if fits[place] and place != at and is_open(ids[place]):
                    chosen.append(ids[place])
                if len(chosen) == COHORT:
                    break
        return self.labels[label], chosen


class Suggester:
    """Forms opinions; keeps the head that it trains from one to the next."""

    def __init__(self) -> None:
        self._head: QuickHead | None = None
        self._head_of = 0

    def opinion(
        self, features: Features, known: Known, run: RunAnswers, offered: Sequence[str]
    ) -> Opinion | None:
        """Returns the mean of what neighbors, the session's head and a run say.

        Args:
            features: Of all photos.
            known: Those among them whose label is known.
            run: What a run says of all photos.
            offered: Labels in the order in which they are shown.

        Returns:
            None where fewer than two labels are known and there is no run.
        """
        from finetune.curation import suggestions

        learned = len(set(known.labels)) >= 2
        wanted = {*run.labels, *(known.labels if learned else ())}
        names = tuple(label for label in offered if label in wanted)
        if not names:
            return None
        parts: list[Array] = []
        if learned:
            rows = features.rows[known.places]
            index = {name: number for number, name in enumerate(names)}
            targets = np.array([index[label] for label in known.labels], np.int64)
            parts.append(
                suggestions.neighbor_probabilities(features.rows, rows, targets, len(names))
            )
            head = self._trained(rows, known.labels)
            if head is not None:
                parts.append(_columns(head.probabilities(features.rows), head.labels, names))
        if run.labels:
            by_run = np.stack([run.of(photo_id) for photo_id in features.ids])
            parts.append(_columns(by_run, run.labels, names))
        return Opinion(labels=names, probabilities=np.mean(parts, axis=0), features=features)

    def _trained(self, rows: NDArray[np.float32], labels: Sequence[str]) -> QuickHead | None:
        """Returns the session's head, trained again when there is enough that is new."""
        if len(labels) < HEAD_LEAST:
            self._head, self._head_of = None, 0
        elif self._head is None or abs(len(labels) - self._head_of) >= HEAD_EVERY:
            from finetune.curation.logistic_regression import fit_quick_head

            self._head, self._head_of = fit_quick_head(rows, labels), len(labels)
        return self._head


def _columns(shares: Array, labels: Sequence[str], names: Sequence[str]) -> Array:
    """Returns probabilities ``(N, names)``: zero for a name that is not among `labels`."""
    result = np.zeros((len(shares), len(names)))
    for column, name in enumerate(names):
        if name in labels:
            result[:, column] = shares[:, labels.index(name)]
    return result


Array = NDArray[np.float64]

Classifier = Callable[[Sequence[Photo]], tuple[tuple[str, ...], Array]]
"""Gives the labels and the probabilities ``(N, labels)`` of photos: a run that was trained."""


class RunAnswers:
    """What a run has said so far; nothing where there is none.

    Attributes:
        labels: Those of the run; () where there is none.
    """

    def __init__(self) -> None:
        self.labels: tuple[str, ...] = ()
        self._rows: dict[str, Array] = {}

    def put(self, ids: Sequence[str], labels: tuple[str, ...], shares: Array) -> None:
        """Takes the probabilities ``(N, labels)`` of N photos."""
        self.labels = labels
        self._rows |= dict(zip(ids, shares, strict=True))

    def of(self, photo_id: str) -> Array:
        """Returns the probabilities ``(labels,)`` of a photo."""
        return self._rows[photo_id]


def run_classifier(run: str, session: Session) -> Classifier:
    """Returns what a trained run says of photos of a session.

    Raises:
        RunError: There is no such run, or it is damaged.
    """
    from finetune.prediction.predictor import Predictor

    predictor = Predictor.load(run)

    def classify(photos: Sequence[Photo]) -> tuple[tuple[str, ...], Array]:
        answers = predictor.predict_batch([session.root / photo.path for photo in photos])
        shares = np.full((len(answers), len(predictor.labels)), 1 / len(predictor.labels))
        for row, answer in zip(shares, answers, strict=True):
            by_label = {item.label: item.probability for item in answer.ranked}
            if by_label:
                row[:] = [by_label[label] for label in predictor.labels]
        return predictor.labels, shares

    return classify


CHECK_EVERY = 15
"""Labels are checked again after so many more of them."""


class Doubts:
    """What models that never saw a labeled photo say of it, as of the latest check."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[tuple[str, ...], Array]] = {}
        self._labels = 0

    def check(
        self,
        features: Features,
        known: Known,
        groups: Sequence[str],
        go_on: Callable[..., None],
    ) -> bool:
        """Asks them anew where there is enough that is new.

        Args:
            features: Of all photos.
            known: Those among them whose label is known.
            groups: Keys of their groups of near-duplicates, which are held out together.
            go_on: Called again and again; what it raises ends the check.

        Returns:
            Whether they were asked.
        """
        count = len(known.labels)
        if abs(count - self._labels) < CHECK_EVERY or not _can_be_held_out(known.labels, groups):
            return False
        self._labels = count
        from finetune.curation.label_errors import find_label_errors

        found = find_label_errors(features.rows[known.places], known.labels, groups, progress=go_on)
        self._said = {
            features.ids[place]: (found.labels, row)
            for place, row in zip(known.places.tolist(), found.probabilities, strict=True)
            if not np.isnan(row).any()
        }
        return True

    def advice(
        self, ids: Sequence[str], own: Sequence[tuple[str, ...]], run: RunAnswers
    ) -> dict[str, Advice]:
        """Returns what they think of the labels that photos have.

        Args:
            ids: The photos.
            own: Their labels; one without any is left out.
            run: Speaks for what was not checked yet.
        """
        told = {}
        for photo_id, labels in zip(ids, own, strict=True):
            if not labels:
                continue
            names, row = self._said.get(photo_id, ((), np.zeros(0)))
            if not names and run.labels:
                names, row = run.labels, run.of(photo_id)
            best = np.argsort(-row, kind="stable")[:TOP].tolist()
            given = sum(float(row[names.index(label)]) for label in labels if label in names)
            told[photo_id] = Advice(
                ranked=tuple((names[i], round(float(row[i]), 2)) for i in best),
                disagreement=round(1 - given, 2) if names else None,
            )
        return told


def _can_be_held_out(labels: Sequence[str], groups: Sequence[str]) -> bool:
    """Returns whether there are two labels, and of one of them two groups of photos or more."""
    pairs = set(zip(labels, groups, strict=True))
    return len(pairs) > len(set(labels)) > 1
