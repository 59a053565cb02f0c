"""What the prediction server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Set

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one server, apart from those of others in the process.

    Args:
        waiting: Returns how many photos are waiting or in work.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "finetune_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self.photos = Counter(
            "finetune_photos", "Photos asked about.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "finetune_request_seconds",
            "From the head of a request to the end of its answer.",
            ["path"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self._registry,
        )
        self.batches = Histogram(
            "finetune_batch_photos",
            "Photos in a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        queue = Gauge(
            "finetune_queue_photos", "Photos waiting or in work.", registry=self._registry
        )
        queue.set_function(waiting)

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self._registry)


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
