"""Progress of a session's background jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

_LEAST_ESTIMATE_SECONDS = 2.0


@dataclass(kw_only=True)
class Job:
    """Progress of a background job.

    Attributes:
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        total: Number of photos; 0 if not known.
        note: Current step, or the error message.
        seconds_left: Estimated time left; None: unknown.
    """

    state: str = "waiting"
    done: int = 0
    total: int = 0
    note: str = ""
    seconds_left: float | None = None
    _began: tuple[float, int] | None = field(default=None, repr=False)

    def begin(self) -> None:
        """Starts to run; the time left is estimated from here."""
        self.state, self.seconds_left, self._began = "running", None, None

    def advance(self, done: int, total: int) -> None:
        """Sets the number of photos done so far."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        self.done, self.total = done, total
        started, before = self._began
        if done > before and now - started > _LEAST_ESTIMATE_SECONDS:
            self.seconds_left = round((total - done) * (now - started) / (done - before), 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns the job as JSON for the page."""
        return {
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "note": self.note,
            "secondsLeft": self.seconds_left,
        }


@dataclass(kw_only=True)
class Jobs:
    """Background jobs of a session."""

    scan: Job = field(default_factory=Job)
    suggestions: Job = field(default_factory=Job)
    check: Job = field(default_factory=Job)

    def to_dict(self) -> dict[str, Any]:
        """Returns the jobs as JSON for the page."""
        jobs = {"scan": self.scan, "suggestions": self.suggestions, "check": self.check}
        return {name: job.to_dict() for name, job in jobs.items()}
