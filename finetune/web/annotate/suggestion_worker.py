"""The machine's part of a session: it looks at the photos, and says what it thinks of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from finetune.errors import FinetuneError
from finetune.photos.crops import Crop
from finetune.web.annotate.annotations import EXCLUDE
from finetune.web.annotate.features import FeatureReader
from finetune.web.annotate.label_errors import Doubts
from finetune.web.annotate.photo_state import Entry
from finetune.web.annotate.run_predictions import Classifier, RunAnswers
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import Known, Opinion, Suggester

logger = logging.getLogger(__name__)

ASKED = 40
"""Photos that are ranked by how much a person's word on them would teach."""

_FEATURE_STEP = 32
_DEBOUNCE_SECONDS = 0.15


class _StoppedError(Exception):
    """The session is over."""


class Adviser:
    """Thinks in the background, whenever there are new photos or new labels.

    Args:
        session: The session that it advises.
        classifier: Opens a trained run, in the background; None learns from labels alone.
        head_start_seconds: Pause before it begins, so that the page is on screen first.

    Attributes:
        features: What it has seen of the photos.
        answers: What the trained run has said of them.
        opinion: What it thinks now; None as long as it knows too little.
    """

    def __init__(
        self,
        session: Session,
        classifier: Callable[[], Classifier] | None = None,
        *,
        head_start_seconds: float = 0.0,
    ) -> None:
        self.features = FeatureReader(session)
        self.answers = RunAnswers()
        self.opinion: Opinion | None = None
        self._head_start_seconds = head_start_seconds
        self._session = session
        self._make_classifier = classifier
        self._suggester = Suggester()
        self._doubts = Doubts()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adviser", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, within a batch of photos or a fold of a check."""
        self._stop.set()
        self._session.labeled.set()
        # A thread that is inside of torch when the process ends would abort it.
        if self._thread.ident is not None:
            self._thread.join()

    def cohort(self, entry: Entry) -> tuple[str | None, list[str]]:
        """Returns the suggested label of a photo and its look-alikes that probably show it, too.

        They have no label yet; the photo itself comes first.
        """
        opinion = self.opinion
        if opinion is None:
            return None, []
        return opinion.cohort(entry.id, lambda other: self._is_open(self._session.board.get(other)))

    def similar(self, entry: Entry) -> list[str]:
        """Returns all photos by their likeness to one, the likest first; [] without features."""
        return self.features.known().nearest(entry.id)

    def square(self, entry: Entry) -> Crop | None:
        """Returns the square around the subject of a photo; None where there is no backbone yet.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        return self.features.square(entry)

    def think(self) -> None:
        """Forms an opinion on all photos and tells the board."""
        from finetune.curation import suggestions

        board = self._session.board
        features = self.features.known()
        entries = [board.get(photo_id) for photo_id in features.ids]
        own = self._labels_of(entries)
        known = Known.of(own)
        places = np.flatnonzero(np.array([self._is_open(entry) for entry in entries], bool))
        opinion = self._suggester.opinion(features, known, self.answers, board.labels)
        if opinion is not None:
            self.opinion = opinion
            shares = opinion.probabilities
            doubts = self._doubts.advice(features.ids, own, self.answers)
            board.advise(doubts | opinion.advice(places))
        else:
            # Nothing to doubt yet: the photos that are most unlike each other teach the most.
            shares = np.full((len(features.ids), 2), 0.5)
        asked = suggestions.ask_next(
            shares[places], features.rows[places], features.rows[known.places], count=ASKED
        )
        board.ask([features.ids[places[at]] for at in asked])

    def check(self) -> None:
        """Asks models that never saw a labeled photo what it shows; when nothing else waits."""
        board = self._session.board
        features = self.features.known()
        entries = [board.get(photo_id) for photo_id in features.ids]
        own = self._labels_of(entries)
        known = Known.of(own)
        groups = [
            getattr(entries[place], "group", None) or features.ids[place]
            for place in known.places.tolist()
        ]
        if self._doubts.check(features, known, groups, self._go_on):
            board.advise(self._doubts.advice(features.ids, own, self.answers))

    def _labels_of(self, entries: Sequence[Entry | None]) -> list[tuple[str, ...]]:
        annotator = self._session.board.annotator
        return [entry.labels(annotator)[0] if entry is not None else () for entry in entries]

    def _is_open(self, entry: Entry | None) -> bool:
        """Returns whether a photo still wants a label."""
        if entry is None or entry.problem is not None or EXCLUDE in entry.word.decisions:
            return False
        _, by = entry.labels(self._session.board.annotator)
        return not by

    def _run(self) -> None:
        job = self._session.board.jobs.advice
        if self._stop.wait(self._head_start_seconds):
            return
        try:
            job.state = "running"
            # Heavy, and not needed for the first photo to be on screen.
            self.features.open()
            classifier = self._make_classifier() if self._make_classifier is not None else None
            while not self._stop.is_set():
                fresh = self.features.fresh()[:_FEATURE_STEP]
                if fresh:
                    job.state = "running"
                    self._learn(classifier, fresh)
                    self.features.subjects.save()
                elif job.state == "running" and self._session.board.jobs.scan.state != "running":
                    self.features.subjects.save(least=1)
                    job.state, job.done, job.total = "done", 0, 0
                if fresh or self._session.labeled.is_set():
                    self._session.labeled.clear()
                    said = self._session.board.said
                    self.think()
                    self._session.board.heard = said
                if not fresh and not self._session.labeled.wait(1.0):
                    self.check()
                elif not fresh:
                    # Fast keys come in bursts: one thought for all of them.
                    time.sleep(_DEBOUNCE_SECONDS)
        except _StoppedError:
            self.features.subjects.save(least=1)
        except FinetuneError as error:
            job.state, job.note = "failed", f"No suggestions: {error}"
            logger.warning("%s", error)
        except Exception:
            job.state, job.note = "failed", "No suggestions: see the terminal"
            raise

    def _go_on(self, done: int = 0, total: int = 0) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _learn(self, classifier: Classifier | None, fresh: Sequence[Entry]) -> None:
        job = self._session.board.jobs.advice
        self.features.read(fresh, self._go_on)
        if classifier is not None:
            photos = [entry.photo for entry in fresh if entry.photo is not None]
            self.answers.put([entry.id for entry in fresh], *classifier(photos))
        job.done = len(self.features)
        job.total = sum(entry.problem is None for entry in self._session.board.entries())
