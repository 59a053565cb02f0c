"""What goes on behind the page: reading new photos, grouping near-duplicates, small copies."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from finetune.errors import FinetuneError
from finetune.photos.collection import Collection
from finetune.photos.crops import Crop
from finetune.photos.decode.pool import usable_cores
from finetune.photos.scan import update
from finetune.photos.split.grouping import photo_groups
from finetune.web.annotate.annotations import EXCLUDE, WordCatalog
from finetune.web.annotate.features import FeatureReader
from finetune.web.annotate.photo_index import Entry
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import (
    Classifier,
    Doubts,
    Known,
    Opinion,
    RunAnswers,
    Suggester,
)

logger = logging.getLogger(__name__)

_SHARE = 0.05
"""Share of the time that telling the page of new photos may take while a scan runs."""


class _StoppedError(Exception):
    """The session is over."""


class Reading:
    """The background scan of a session.

    Args:
        session: The session whose board it fills.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reading", daemon=True)
        self._tell_at = 0.0
        self.collection: Collection | None = None
        self.done = threading.Event()

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Ends it; what was read so far is kept."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        job = self._session.board.jobs.scan
        job.state = "running"
        try:
            # A connection of its own: a long read does not hold up what a person says.
            with WordCatalog(self._session.catalog_file) as catalog:
                update(
                    catalog,
                    self._session.root,
                    self._session.found,
                    workers=max(1, usable_cores() - 1),
                    progress=lambda done, total: self._progress(catalog, done, total),
                )
                self._tell(catalog)
            job.note = "grouping"
            self._group()
            job.state, job.note = "done", ""
            self.done.set()
            self._make_thumbnails()
        except _StoppedError:
            job.state = "waiting"
        except FinetuneError as error:
            job.state, job.note = "failed", str(error)
            logger.warning("%s", error)
        except Exception:
            job.state, job.note = "failed", "reading the photos failed; see the terminal"
            raise

    def _progress(self, catalog: WordCatalog, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        job = self._session.board.jobs.scan
        job.done, job.total = done, total
        if done < total and time.monotonic() > self._tell_at:
            self._tell(catalog)

    def _tell(self, catalog: WordCatalog) -> None:
        started = time.monotonic()
        self.collection = catalog.collection(self._session.root, with_excluded=True)
        self._session.board.learn(self.collection)
        took = time.monotonic() - started
        self._tell_at = time.monotonic() + max(0.5, took / _SHARE)

    def _group(self) -> None:
        if self.collection is None:
            return
        photos = [photo for photo in self.collection.photos if photo.packed_hashes is not None]
        keys = photo_groups(photos, said=self._session.catalog.groups())
        sizes = Counter(keys)
        self._session.board.group(
            {photo.path: key for photo, key in zip(photos, keys, strict=True) if sizes[key] > 1}
        )

    def _make_thumbnails(self) -> None:
        """Makes the cells of the grid ahead of their scrolling by, one after the other."""
        thumbnails = self._session.thumbnails
        for entry in self._session.board.entries():
            if self._stop.is_set():
                return
            if entry.problem is None and not thumbnails.has(entry.id, "thumb"):
                try:
                    self._session.copy_of(entry, "thumb")
                except FinetuneError as error:
                    logger.info("%s", error)


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
