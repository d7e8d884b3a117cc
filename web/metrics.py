"""What Prometheus reads at /metrics."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/predict", "/invocations")  # whose times are measured; other paths are counted as one


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "trackway_requests", "Requests that were answered", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "trackway_request_seconds", "Time from a request's head to its answer", ["path"], registry=self.registry
        )
        self._batch = Histogram(
            "trackway_batch_samples",
            "Samples that were computed together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self._version = Gauge("trackway_model_version", "Version that is served", ["model"], registry=self.registry)

    def computed(self, samples: int) -> None:
        """Counts a batch."""
        self._batch.observe(samples)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        label = path if path in PATHS else "other"
        self._requests.labels(label, status).inc()
        self._seconds.labels(label).observe(seconds)

    def text(self, model: str, version: str) -> bytes:
        """Returns all in Prometheus's text format."""
        self._version.labels(model).set(int(version))
        return generate_latest(self.registry)


class Measured:
    """Wraps an ASGI app, and counts its requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and counts it when its answer begins."""
        start = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.answered(scope["path"], message["status"], time.perf_counter() - start)
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)
