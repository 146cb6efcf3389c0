"""What a server tells of itself to Prometheus. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from genkit.serving.models import Catalogue
    from genkit.serving.scheduler import Kind, Scheduler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SAMPLES = (1, 2, 4, 8, 16, 32, 48, 64)


class Metrics:
    """Counters and histograms of one server.

    Attributes:
        registry: that holds them.
        requests: by method, route and status.
        latency: seconds from the first byte of a request to the last of its answer, by route.
        samples: that were answered, by model.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "genkit_requests", "Requests.", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "genkit_request_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.samples = Counter(
            "genkit_samples", "Samples that were answered.", ["model"], registry=self.registry
        )
        self._batch_samples = Histogram(
            "genkit_batch_samples",
            "Samples of a batch, or parts of a long one.",
            ["model"],
            buckets=_SAMPLES,
            registry=self.registry,
        )
        self._batch_requests = Histogram(
            "genkit_batch_requests",
            "Requests that shared a batch.",
            ["model"],
            buckets=_SAMPLES,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "genkit_batch_seconds",
            "Seconds that a batch took.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "genkit_refusals",
            "Work that was refused (full, share, late, draining), or dropped since its client left.",
            ["reason"],
            registry=self.registry,
        )

    def watch(self, scheduler: Scheduler, catalogue: Catalogue) -> None:
        """Tell of a queue and of the open models as they are when they are asked for."""
        self.registry.register(_Gauges(scheduler, catalogue))

    def batch_computed(self, kind: Kind, units: int, jobs: int, seconds: float) -> None:
        """See `genkit.serving.scheduler.Observer`."""
        self._batch_samples.labels(kind.name).observe(units)
        self._batch_requests.labels(kind.name).observe(jobs)
        self._batch_seconds.labels(kind.name).observe(seconds)

    def work_refused(self, reason: str) -> None:
        """See `genkit.serving.scheduler.Observer`."""
        self._refusals.labels(reason).inc()

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """What is read from the scheduler and the catalogue at the time of asking."""

    def __init__(self, scheduler: Scheduler, catalogue: Catalogue) -> None:
        self.scheduler, self.catalogue = scheduler, catalogue

    def collect(self) -> Iterator[Metric]:
        queued, requests = self.scheduler.queued_samples, self.scheduler.open_requests
        yield GaugeMetricFamily("genkit_queue_samples", "Samples that wait.", queued)
        yield GaugeMetricFamily(
            "genkit_open_requests", "Requests that wait or are answered.", requests
        )
        wait = self.scheduler.expected_wait()
        yield GaugeMetricFamily("genkit_queue_seconds", "Seconds of work that wait.", wait)
        size = GaugeMetricFamily("genkit_model_bytes", "Weights of open models.", labels=["model"])
        for loaded_model in self.catalogue.open_models:
            size.add_metric([loaded_model.id], loaded_model.nbytes)
        yield size

    def describe(self) -> Iterable[Metric]:
        return []
