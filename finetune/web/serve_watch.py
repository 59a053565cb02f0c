"""Counts and logs the requests to the prediction server."""

from __future__ import annotations

import time
from collections.abc import Callable, Set

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.web.serve_metrics import Metrics

Log = Callable[[str], None]


class Watch:
    """Counts and logs each request, whoever answers it.

    Args:
        app: What answers.
        metrics: Where is counted.
        log: Told one line a request: method, path, status, milliseconds, photos.
        paths: Those that are named; all others are one.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: Log, paths: Set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the application behind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - started
            # Paths that nobody serves would make a new counter for each one that is tried.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            photos = scope.get("state", {}).get("photos", 0)
            self._log(
                f"{scope['method']} {path} {status} {1000 * seconds:.0f} ms"
                + (f" {photos} photos" if photos else "")
            )
