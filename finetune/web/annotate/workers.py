"""Background threads of a session: scan and label suggestions."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from finetune.errors import FinetuneError
from finetune.photos.catalog.annotations import EXCLUDE
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.collection import Collection
from finetune.photos.decode.pool import usable_cores
from finetune.photos.scan import update
from finetune.photos.split.grouping import photo_groups
from finetune.web.annotate.features import FeatureExtractor, Features
from finetune.web.annotate.jobs import Job
from finetune.web.annotate.metadata import read_place
from finetune.web.annotate.photo_state import PhotoState
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import (
    Classifier,
    Labeled,
    Suggester,
)
from finetune.web.annotate.watch import FolderWatch

logger = logging.getLogger(__name__)

RANKED_PHOTOS = 40
"""Number of photos ranked by how informative their label would be."""

_EMIT_SHARE = 0.05
"""Maximum share of the scan time spent on updating the page."""

_FIRST_PHOTO_SECONDS = 2.0
"""Time after which the other photos are looked for although none has been shown."""

_FEATURE_STEP = 32
_FOLLOW_SECONDS = 0.5
_DEBOUNCE_SECONDS = 0.15


class _StoppedError(Exception):
    """The session is over."""


class Worker(threading.Thread):
    """Thread that works for a session and reports to a job; subclasses implement `work`."""

    _join_seconds: float | None = None

    def __init__(self, session: Session, job: Job, failure: str) -> None:
        super().__init__(daemon=True)
        self._session = session
        self._job = job
        self._failure = failure
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stops the thread and waits for it; finished work is kept."""
        self._stopping.set()
        # A thread inside torch or a decoder when the process ends would abort it.
        if self.ident is not None:
            self.join(self._join_seconds)

    def work(self) -> None:
        """Does the work."""
        raise NotImplementedError

    def run(self) -> None:
        """Works, and reports errors to the job."""
        job = self._job
        try:
            self.work()
        except _StoppedError:
            job.state = "waiting"
        except FinetuneError as error:
            job.state, job.note = "failed", f"{self._failure}: {error}"
            logger.warning("%s", error)
        except Exception:
            job.state, job.note = "failed", f"{self._failure}; see the terminal."
            raise

    def _raise_if_stopped(self, done: int = 0, total: int = 0) -> None:
        if self._stopping.is_set():
            raise _StoppedError


class ScanWorker(Worker):
    """Scans the folder, groups near-duplicates, makes thumbnails, and follows changes of files.

    The event `done` is set when all photos have been read and grouped.
    """

    _join_seconds = 5.0

    def __init__(self, session: Session) -> None:
        super().__init__(session, session.index.jobs.scan, "Photos could not be read")
        self._emit_at = 0.0
        self._collection: Collection | None = None
        self.done = threading.Event()
        self._watch = FolderWatch(session.root)

    def stop(self) -> None:
        """Stops after the current photo; finished work is kept."""
        self._session.shown.set()
        self._watch.stop()
        super().stop()

    def work(self) -> None:
        """Scans, groups, makes thumbnails, and follows changes."""
        self._watch.start()
        if not self._session.is_complete:
            # The first photo comes first.
            self._session.shown.wait(_FIRST_PHOTO_SECONDS)
            self._raise_if_stopped()
            self._job.begin()
            self._session.find_all()
        self._scan()
        self.done.set()
        self._prepare_photos()
        while not self._stopping.wait(_FOLLOW_SECONDS):
            if self._session.regroup.is_set():
                self._session.regroup.clear()
                self._group()
            if self._watch.is_due():
                self._watch.looking()
                if self._session.find_changes():
                    self._scan()
                    self._prepare_photos()
                self._watch.looked()

    def _scan(self) -> None:
        job = self._job
        job.begin()
        # A separate connection: a long scan does not delay actions.
        with Catalog(self._session.catalog.path) as catalog:
            update(
                catalog,
                self._session.root,
                self._session.files,
                workers=max(1, usable_cores() - 1),
                progress=lambda done, total: self._progress(catalog, done, total),
            )
            self._emit(catalog)
        job.note = "grouping"
        self._group()
        job.state, job.note, job.seconds_left = "done", "", None

    def _progress(self, catalog: Catalog, done: int, total: int) -> None:
        self._raise_if_stopped()
        self._job.advance(done, total)
        if done < total and time.monotonic() > self._emit_at:
            self._emit(catalog)

    def _emit(self, catalog: Catalog) -> None:
        started = time.monotonic()
        self._collection = catalog.collection(self._session.root, with_excluded=True)
        self._session.index.update_photos(self._collection)
        took = time.monotonic() - started
        self._emit_at = time.monotonic() + max(0.5, took / _EMIT_SHARE)

    def _group(self) -> None:
        if self._collection is None:
            return
        photos = [photo for photo in self._collection.photos if photo.packed_hashes is not None]
        keys = photo_groups(photos, assigned=self._session.catalog.groups())
        sizes = Counter(keys)
        self._session.index.set_groups(
            {photo.path: key for photo, key in zip(photos, keys, strict=True) if sizes[key] > 1}
        )

    def _prepare_photos(self) -> None:
        """Reads the places of photos, and makes thumbnails."""
        session, thumbnails = self._session, self._session.thumbnails
        for state in session.index.states():
            if self._stopping.is_set():
                return
            if state.id not in session.place_of:
                session.place_of[state.id] = read_place(session.root / state.path)
            if state.problem is None and not thumbnails.has(state.id, "thumb"):
                try:
                    self._session.thumbnail(state, "thumb")
                except FinetuneError as error:
                    logger.info("%s", error)


class SuggestionWorker(Worker):
    """Updates suggestions when there are new photos or labels.

    Args:
        session: The session.
        load_classifier: Loads a trained run, in the background; None: only labels are used.
        delay_seconds: Pause before the work starts, so that the page appears first.
        extractor: Computes the features; None: one with the default backbone.
    """

    def __init__(
        self,
        session: Session,
        load_classifier: Callable[[], Classifier] | None = None,
        *,
        delay_seconds: float = 0.0,
        extractor: FeatureExtractor | None = None,
    ) -> None:
        super().__init__(session, session.index.jobs.suggestions, "No suggestions")
        self.extractor = extractor or FeatureExtractor(session)
        self._delay_seconds = delay_seconds
        self._load_classifier = load_classifier
        self.suggester = Suggester()

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """Stops after the current photos or fold; finished work is kept.

        Args:
            wait_seconds: Longest time to wait for that; None: as long as it takes.
        """
        self._stopping.set()
        self._session.labeled.set()
        self._join_seconds = wait_seconds
        super().stop()

    def similar(self, state: PhotoState) -> list[str]:
        """Returns all photo ids by similarity to a photo, itself first; [] without features."""
        features = self.extractor.features()
        return [features.ids[position] for position in features.nearest(state.id)]

    def suggest(self) -> None:
        """Predicts labels of all photos without one, and updates the index."""
        index = self._session.index
        features, states, own, labeled = self._photos()
        is_open = np.array([self._is_open(state) for state in states], bool)
        found = self.suggester.predict(
            features, labeled, index.labels, is_open, next_count=RANKED_PHOTOS
        )
        of_labeled = self.suggester.disagreements(features.ids, own)
        index.update_suggestions(of_labeled | found.suggestions())
        index.cohort = found.cohort
        index.set_ranking(found.next_ids)

    def check_labels(self) -> None:
        """Finds label errors by cross-validation and updates the index."""
        job = self._session.index.jobs.check
        features, _, own, labeled = self._photos()
        if self.suggester.check_labels(features, labeled, self._raise_if_stopped):
            self._session.index.update_suggestions(self.suggester.disagreements(features.ids, own))
        job.state = "done"

    def work(self) -> None:
        """Extracts features and suggests labels; checks labels when idle."""
        job, index, labeled = self._job, self._session.index, self._session.labeled
        if self._stopping.wait(self._delay_seconds):
            return
        try:
            job.state = "running"
            self.extractor.load()
            job.begin()
            classifier = self._load_classifier() if self._load_classifier is not None else None
            while not self._stopping.is_set():
                pending = self.extractor.pending()[:_FEATURE_STEP]
                if pending:
                    job.state = "running"
                    self._extract(classifier, pending)
                    self.extractor.subjects.save()
                elif job.state == "running" and index.jobs.scan.state != "running":
                    self.extractor.subjects.save(min_new=1)
                    job.state, job.done, job.total, job.seconds_left = "done", 0, 0, None
                if pending or labeled.is_set():
                    labeled.clear()
                    action_count = index.action_count
                    self.suggest()
                    index.suggested_count = action_count
                if not pending and not labeled.wait(1.0):
                    self.check_labels()
                elif not pending:
                    # One update for several keys in quick succession.
                    time.sleep(_DEBOUNCE_SECONDS)
        except _StoppedError:
            self.extractor.subjects.save(min_new=1)
            raise

    def _photos(
        self,
    ) -> tuple[Features, list[PhotoState | None], list[tuple[str, ...] | None], Labeled]:
        """Returns the features so far, and states and labels of the same photos."""
        index = self._session.index
        features = self.extractor.features()
        states = [index.get(photo_id) for photo_id in features.ids]
        own: list[tuple[str, ...] | None] = []
        groups = []
        for photo_id, state in zip(features.ids, states, strict=True):
            labels, source = ((), "") if state is None else state.labels(index.annotator)
            own.append(labels if source else None)
            groups.append(photo_id if state is None or state.group is None else state.group)
        return features, states, own, Labeled.of(own, groups)

    def _is_open(self, state: PhotoState | None) -> bool:
        """Returns whether a photo has no label yet."""
        if state is None or state.problem is not None or EXCLUDE in state.annotations.decisions:
            return False
        _, source = state.labels(self._session.index.annotator)
        return not source

    def _extract(self, classifier: Classifier | None, pending: Sequence[PhotoState]) -> None:
        self.extractor.extract(pending, self._raise_if_stopped)
        if classifier is not None:
            photos = [state.photo for state in pending if state.photo is not None]
            self.suggester.add_run([state.id for state in pending], *classifier(photos))
        states = self._session.index.states()
        total = sum(state.problem is None for state in states)
        self._job.advance(len(self.extractor), total)
