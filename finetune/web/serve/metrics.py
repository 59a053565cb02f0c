"""Prometheus metrics and request log of the prediction server."""

from __future__ import annotations

import time
from collections.abc import Callable, Set

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Metrics of one server, in a registry of its own.

    Args:
        queued: Returns the number of photos waiting or in progress.
    """

    def __init__(self, queued: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "finetune_requests", "Completed requests.", ["path", "status"], registry=self._registry
        )
        self.photos = Counter(
            "finetune_photos", "Photos received.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "finetune_request_seconds",
            "Time from the head of a request to the end of its response.",
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
            "finetune_queue_photos", "Photos waiting or in progress.", registry=self._registry
        )
        queue.set_function(queued)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class RequestMetrics:
    """ASGI middleware that counts and logs each request.

    Args:
        app: The application.
        metrics: Metrics to update.
        log: Receives one line a request: method, path, status, milliseconds, photos.
        paths: Paths to count separately; all others share one counter.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, log: Callable[[str], None], paths: Set[str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and records it."""
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
            # A counter for every unknown path would grow without bound.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            photos = scope.get("state", {}).get("photos", 0)
            self._log(
                f"{scope['method']} {path} {status} {1000 * seconds:.0f} ms"
                + (f" {photos} photos" if photos else "")
            )
