"""Notices new, changed and removed files of a folder."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from finetune.files import HIDDEN_FOLDER

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Pause between looks at a folder that the system does not report changes of."""

WATCHED_POLL_SECONDS = 60.0
"""The same where it does: those of other computers on a network drive are not reported."""

SLOWNESS = 20.0
"""Least ratio of the pause to the time that a look takes."""


class FolderWatch:
    """Tells when to look at a folder again.

    Args:
        root: The folder.
        clock: Returns seconds; for tests.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._looked_at = clock()
        self._pause = POLL_SECONDS
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Starts to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stops watching."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    def is_due(self) -> bool:
        """Returns whether files have changed, or the folder has not been looked at for long."""
        return self._changed.is_set() or self._clock() - self._looked_at >= self._pause

    def looking(self) -> None:
        """Is called before a look at the folder: later changes count as new ones."""
        self._changed.clear()
        self._looked_at = self._clock()

    def looked(self) -> None:
        """Is called after a look: a slow folder is looked at less often."""
        least = WATCHED_POLL_SECONDS if self._thread.is_alive() else POLL_SECONDS
        self._pause = max(least, SLOWNESS * (self._clock() - self._looked_at))

    def _watch(self) -> None:
        try:
            from watchfiles import watch
        except ImportError:
            logger.info("Without watchfiles, new photos appear after some seconds.")
            return
        ours = str(self._root / HIDDEN_FOLDER)
        try:
            for _ in watch(
                self._root,
                watch_filter=lambda _, path: not path.startswith(ours),
                stop_event=self._stopping,
                rust_timeout=500,
                yield_on_timeout=False,
                raise_interrupt=False,
            ):
                self._changed.set()
        except OSError as error:  # no more watches in this system, say
            logger.info("%s is not watched: %s", self._root, error)
