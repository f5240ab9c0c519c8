"""What a service counts, as Prometheus reads it."""

from __future__ import annotations

from typing import Final, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["Metrics"]

_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)


@final
class Metrics:
    """The counters of one service; no label ever holds a name, a file or an address."""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("tercet_requests", "Requests answered.", ("route", "status"), registry=self._registry)
        self._seconds = Histogram(
            "tercet_request_seconds",
            "Time to the end of the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._refused = Counter("tercet_refused", "Requests refused, by reason.", ("reason",), registry=self._registry)
        self._decisions = Counter("tercet_decisions", "Decisions.", ("command", "decision"), registry=self._registry)
        self._working = Gauge("tercet_working", "Requests that are worked on.", registry=self._registry)
        self._batch = Histogram(
            "tercet_batch_size",
            "Samples that went through the model together.",
            buckets=_SIZES,
            registry=self._registry,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def decided(self, command: str, decision: str) -> None:
        """Count a decision."""
        self._decisions.labels(command, decision).inc()

    def working(self, count: int) -> None:
        """Say how many requests are worked on."""
        self._working.set(count)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batch.observe(size)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
