"""What goes on behind the page: reading new photos, grouping near-duplicates, small copies."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from finetune.errors import FinetuneError
from finetune.photos.collection import Collection
from finetune.photos.decode.pool import usable_cores
from finetune.photos.scan import update
from finetune.photos.split.grouping import photo_groups
from finetune.web.annotate.annotations import WordCatalog
from finetune.web.annotate.session import Session

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
