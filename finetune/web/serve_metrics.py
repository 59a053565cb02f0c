"""What the prediction server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

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
