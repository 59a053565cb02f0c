"""The machine's part of a session: features of all photos, and what labels they suggest."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DecodeError, FinetuneError
from finetune.photos.collection import Photo
from finetune.photos.crop import Crop
from finetune.web.annotate_board import Advice, Entry
from finetune.web.annotate_session import Session
from finetune.web.annotate_subjects import Subjects
from finetune.web.annotate_words import EXCLUDE

if TYPE_CHECKING:
    from finetune.curation.embedding import Embedder
    from finetune.curation.quick_head import QuickHead
    from finetune.curation.subject import SubjectFinder

logger = logging.getLogger(__name__)

HEAD_EVERY = 15
"""A head is trained again after so many labels more; until the first, neighbours decide alone."""

HEAD_LEAST = 8
"""Labelled photos, at least, before a head is trained."""

TOP = 4
"""Suggestions that a photo is shown with."""

COHORT = 24
COHORT_LEAST = 0.6
ASKED = 40
_FEATURE_STEP = 32
_DEBOUNCE_SECONDS = 0.15

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the photos that are known so far.

    Attributes:
        ids: The photos.
        rows: ``(N, F) float32``, one row a photo.
    """

    ids: tuple[str, ...]
    rows: NDArray[np.float32]


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


class _StoppedError(Exception):
    """The session is over."""


Classifier = Callable[[Sequence[Photo]], tuple[tuple[str, ...], Array]]
"""Gives the labels and the probabilities ``(N, labels)`` of photos: a run that was trained."""


class Adviser:
    """Thinks in the background, whenever there are new photos or new labels.

    Args:
        session: The session that it advises.
        classifier: Opens a trained run, in the background; None learns from labels alone.
        head_start_seconds: Pause before it begins, so that the page is on screen first.
    """

    def __init__(
        self,
        session: Session,
        classifier: Callable[[], Classifier] | None = None,
        *,
        head_start_seconds: float = 0.0,
    ) -> None:
        self._head_start_seconds = head_start_seconds
        self._session = session
        self._make_classifier = classifier
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adviser", daemon=True)
        self._features: dict[str, NDArray[np.float32]] = {}
        self._subjects = Subjects(session.home / "subjects.json")
        self._by_run: dict[str, Array] = {}
        self._run_labels: tuple[str, ...] = ()
        self._head: QuickHead | None = None
        self._head_of = 0
        self._checks: dict[str, tuple[tuple[str, ...], Array]] = {}
        self._checks_of = 0
        self._finder: SubjectFinder | None = None
        self.opinion: Opinion | None = None

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, within a batch of photos or a fold of a check."""
        self._stop.set()
        self._session.labelled.set()
        # A thread that is inside of torch when the process ends would abort it.
        if self._thread.ident is not None:
            self._thread.join()

    def cohort(self, entry: Entry) -> tuple[str | None, list[str]]:
        """Returns the suggested label of a photo and its look-alikes that probably show it, too.

        They have no label yet; the photo itself comes first.
        """
        opinion = self.opinion
        if opinion is None or entry.id not in opinion.features.ids or not opinion.labels:
            return None, []
        at = opinion.features.ids.index(entry.id)
        label = int(opinion.probabilities[at].argmax())
        share = opinion.probabilities[:, label]
        fits = (opinion.probabilities.argmax(axis=1) == label) & (share >= COHORT_LEAST)
        if not fits[at]:
            return opinion.labels[label], [entry.id]
        from finetune.curation.embedding import unit_rows

        rows = unit_rows(opinion.features.rows)
        order = np.argsort(-(rows @ rows[at]), kind="stable")
        chosen = [entry.id]
        for index in order[fits[order]].tolist():
            other = self._session.board.get(opinion.features.ids[index])
            if other is not None and other is not entry and _is_open(other, self._annotator):
                chosen.append(other.id)
            if len(chosen) == COHORT:
                break
        return opinion.labels[label], chosen

    def similar(self, entry: Entry) -> list[str]:
        """Returns all photos by their likeness to one, the likest first; [] without features."""
        opinion_features = self._known()
        if entry.id not in self._features:
            return []
        from finetune.curation.embedding import unit_rows

        rows = unit_rows(opinion_features.rows)
        likeness = rows @ rows[opinion_features.ids.index(entry.id)]
        return [opinion_features.ids[i] for i in np.argsort(-likeness, kind="stable")]

    def square(self, entry: Entry) -> Crop | None:
        """Returns the square around the subject of a photo; None where there is no backbone yet.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        finder = self._finder
        return None if finder is None else finder.crop_of(self._session.root / entry.path)

    @property
    def _annotator(self) -> str | None:
        return self._session.board.annotator

    def _known(self) -> Features:
        features = dict(self._features)
        rows = np.stack(list(features.values())) if features else np.zeros((0, 1), np.float32)
        return Features(ids=tuple(features), rows=rows)

    def _run(self) -> None:
        job = self._session.board.jobs.advice
        if self._stop.wait(self._head_start_seconds):
            return
        try:
            job.state = "running"
            # Heavy, and not needed for the first photo to be on screen.
            from finetune.curation.embedding import Embedder, load_backbone
            from finetune.curation.subject import SubjectFinder

            backbone = load_backbone()
            embedder = Embedder(backbone)
            self._finder = SubjectFinder(backbone)
            classifier = self._make_classifier() if self._make_classifier is not None else None
            while not self._stop.is_set():
                fresh = self._fresh()[:_FEATURE_STEP]
                if fresh:
                    job.state = "running"
                    self._learn(embedder, classifier, fresh)
                    self._subjects.save()
                elif job.state == "running" and self._session.board.jobs.scan.state != "running":
                    self._subjects.save(least=1)
                    job.state, job.done, job.total = "done", 0, 0
                if fresh or self._session.labelled.is_set():
                    self._session.labelled.clear()
                    said = self._session.board.said
                    self._think()
                    self._session.board.heard = said
                if not fresh and not self._session.labelled.wait(1.0):
                    self._check()
                elif not fresh:
                    # Fast keys come in bursts: one thought for all of them.
                    time.sleep(_DEBOUNCE_SECONDS)
        except _StoppedError:
            self._subjects.save(least=1)
        except FinetuneError as error:
            job.state, job.note = "failed", f"No suggestions: {error}"
            logger.warning("%s", error)
        except Exception:
            job.state, job.note = "failed", "No suggestions: see the terminal"
            raise

    def _go_on(self, done: int = 0, total: int = 0) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _fresh(self) -> list[Entry]:
        return [
            entry
            for entry in self._session.board.entries()
            if entry.photo is not None and entry.problem is None and entry.id not in self._features
        ]

    def _learn(
        self, embedder: Embedder, classifier: Classifier | None, fresh: Sequence[Entry]
    ) -> None:
        job = self._session.board.jobs.advice
        photos = [self._seen(entry.photo) for entry in fresh if entry.photo is not None]
        found = embedder.embed(
            self._session.root,
            photos,
            catalog=self._session.catalog_place,
            progress=self._go_on,
        )
        for row, position in zip(found.features, found.positions.tolist(), strict=True):
            self._features[fresh[position].id] = row
        for entry in fresh:
            self._features.setdefault(entry.id, np.zeros(found.features.shape[1], np.float32))
        if classifier is not None:
            self._run_labels, shares = classifier(photos)
            self._by_run |= {e.id: row for e, row in zip(fresh, shares, strict=True)}
        job.done = len(self._features)
        job.total = sum(e.problem is None for e in self._session.board.entries())

    def _seen(self, photo: Photo) -> Photo:
        """Returns a photo with the square through which it is looked at.

        What surrounds a small subject says little about it: features of the square around it tell
        the labels apart far better than features of the whole photo.
        """
        self._go_on()
        if photo.crop is not None:
            return photo
        crop = self._subjects.get(photo.digest)
        if crop is None and self._finder is not None:
            try:
                crop = self._finder.crop_of(self._session.root / photo.path)
            except DecodeError:
                return photo
            self._subjects.put(photo.digest, crop)
        return dataclasses.replace(photo, crop=crop)

    def _think(self) -> None:
        """Forms an opinion on all photos and tells the board."""
        from finetune.curation import suggest

        board = self._session.board
        features = self._known()
        entries = [board.get(photo_id) for photo_id in features.ids]
        own = [entry.labels(self._annotator)[0] if entry is not None else () for entry in entries]
        known = _Known.of(own)
        is_open = [entry is not None and _is_open(entry, self._annotator) for entry in entries]
        places = np.flatnonzero(np.array(is_open, bool))
        shares, names = self._shares(features, known)
        if names:
            self.opinion = Opinion(labels=names, probabilities=shares, features=features)
            doubts = suggest.uncertainty(shares)
            ranked = suggest.ranked(shares[places], names, top=TOP)
            told = self._checked(features, own)
            for place, items in zip(places.tolist(), ranked, strict=True):
                told[features.ids[place]] = Advice(
                    ranked=tuple((item.label, round(item.probability, 2)) for item in items),
                    uncertainty=round(float(doubts[place]), 2),
                )
            board.advise(told)
        else:
            # Nothing to doubt yet: the photos that are most unlike each other teach the most.
            shares = np.full((len(features.ids), 2), 0.5)
        asked = suggest.ask_next(
            shares[places], features.rows[places], features.rows[known.places], count=ASKED
        )
        board.ask([features.ids[places[at]] for at in asked])

    def _shares(self, features: Features, known: _Known) -> tuple[Array, tuple[str, ...]]:
        """Returns the mean of what neighbours, the session's head and the run say."""
        from finetune.curation import suggest

        learned = len(set(known.labels)) >= 2
        wanted = {*self._run_labels, *(known.labels if learned else ())}
        names = tuple(label for label in self._session.board.labels if label in wanted)
        parts: list[Array] = []
        if learned:
            rows = features.rows[known.places]
            index = {name: number for number, name in enumerate(names)}
            targets = np.array([index[label] for label in known.labels], np.int64)
            parts.append(suggest.neighbour_probabilities(features.rows, rows, targets, len(names)))
            head = self._trained(rows, known.labels)
            if head is not None:
                parts.append(_columns(head.probabilities(features.rows), head.labels, names))
        if self._run_labels:
            by_run = np.stack([self._by_run[photo_id] for photo_id in features.ids])
            parts.append(_columns(by_run, self._run_labels, names))
        return (np.mean(parts, axis=0) if parts else np.zeros((len(features.ids), 0))), names

    def _trained(self, rows: NDArray[np.float32], labels: Sequence[str]) -> QuickHead | None:
        """Returns the session's head, trained again when there is enough that is new."""
        if len(labels) < HEAD_LEAST:
            self._head, self._head_of = None, 0
        elif self._head is None or abs(len(labels) - self._head_of) >= HEAD_EVERY:
            from finetune.curation.quick_head import fit_quick_head

            self._head, self._head_of = fit_quick_head(rows, labels), len(labels)
        return self._head

    def _check(self) -> None:
        """Asks models that never saw a labelled photo what it shows; when nothing else waits."""
        features = self._known()
        entries = [self._session.board.get(photo_id) for photo_id in features.ids]
        own = [entry.labels(self._annotator)[0] if entry is not None else () for entry in entries]
        known = _Known.of(own)
        counts = Counter(known.labels)
        if abs(len(known.labels) - self._checks_of) < HEAD_EVERY or len(counts) < 2:
            return
        self._checks_of = len(known.labels)
        from finetune.curation.label_errors import find_label_errors

        groups = [
            getattr(entries[place], "group", None) or features.ids[place]
            for place in known.places.tolist()
        ]
        found = find_label_errors(
            features.rows[known.places], known.labels, groups, progress=self._go_on
        )
        self._checks = {
            features.ids[place]: (found.labels, row)
            for place, row in zip(known.places.tolist(), found.probabilities, strict=True)
            if not np.isnan(row).any()
        }
        self._session.board.advise(self._checked(features, own))

    def _checked(self, features: Features, own: Sequence[tuple[str, ...]]) -> dict[str, Advice]:
        """Returns the advice on labelled photos, by models that did not learn from them."""
        told = {}
        for photo_id, labels in zip(features.ids, own, strict=True):
            if not labels:
                continue
            names, row = self._checks.get(photo_id, ((), np.zeros(0)))
            if not names and self._run_labels:
                names, row = self._run_labels, self._by_run[photo_id]
            best = np.argsort(-row, kind="stable")[:TOP].tolist()
            given = sum(float(row[names.index(label)]) for label in labels if label in names)
            told[photo_id] = Advice(
                ranked=tuple((names[i], round(float(row[i]), 2)) for i in best),
                disagreement=round(1 - given, 2) if names else None,
            )
        return told


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The photos that have one label: where they are among all, and which it is."""

    places: NDArray[np.int64]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, own: Sequence[tuple[str, ...]]) -> _Known:
        """Returns them, given the labels of all photos."""
        places = [place for place, labels in enumerate(own) if len(labels) == 1]
        return cls(
            places=np.array(places, np.int64), labels=tuple(own[place][0] for place in places)
        )


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


def _columns(shares: Array, labels: Sequence[str], names: Sequence[str]) -> Array:
    """Returns probabilities ``(N, names)``: zero for a name that is not among `labels`."""
    result = np.zeros((len(shares), len(names)))
    for column, name in enumerate(names):
        if name in labels:
            result[:, column] = shares[:, labels.index(name)]
    return result


def _is_open(entry: Entry, annotator: str | None) -> bool:
    """Returns whether a photo still wants a label."""
    by_nobody = not entry.labels(annotator)[1]
    return by_nobody and entry.problem is None and EXCLUDE not in entry.word.decisions
