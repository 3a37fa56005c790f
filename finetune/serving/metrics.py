"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROUTES = ("/predict", "/explain")  # any other path is one label: clients may ask for anything


class Metrics:
    """Counters of one server, and of its process.

    Attributes:
        registry: that holds them all.
        photos: classified.
        batches: photos of each batch.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self.photos = Counter(
            "finetune_photos", "Photos that were classified.", registry=self.registry
        )
        self.batches = Histogram(
            "finetune_batch_photos",
            "Photos that were computed together.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self._requests = Counter(
            "finetune_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "finetune_request_seconds",
            "From a request's first byte to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        route = path if path in _ROUTES else "other"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
