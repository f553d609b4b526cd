"""What the service counts, for Prometheus. Read-only, like all of it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServeMetrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "sightline_serve_"
        self.requests = Counter(
            f"{prefix}requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{prefix}request_seconds", "Time to answer, by route", ["route"], registry=self.registry, buckets=SECONDS
        )
        self.phases = Histogram(
            f"{prefix}phase_seconds",
            "Time of the parts of a search: describe, search, locate",
            ["phase"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.waiting = Gauge(
            f"{prefix}in_hand", "Requests at work or waiting, by kind of work", ["work"], registry=self.registry
        )
        self.snapshot = Gauge(f"{prefix}snapshot", "Number of the snapshot that answers", registry=self.registry)
        self.images = Gauge(f"{prefix}images", "Images of the snapshot that answers", registry=self.registry)
        self.failures = Gauge(
            f"{prefix}refresh_failures", "New snapshots that could not be opened", registry=self.registry
        )
