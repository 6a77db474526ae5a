"""A node's metrics on Triton's own endpoint: counted in the process, carried over by a thread.

Triton 2.51 knows counters and gauges of Python nodes, and each change of one is a message to the server,
which a request would wait for. A histogram arrives as the counters `_bucket`, `_sum` and `_count`, which
Prometheus reads as a histogram.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

EXPORT_S = 0.25
"""Seconds between two looks at what has been counted."""

STAGE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64)
STAGES = ("parse", "run", "pack")
FAILURES = ("invalid", "refused", "expired", "mismatch", "stale", "unavailable", "internal")

Series = tuple[str, tuple[tuple[str, str], ...]]


Labelled = TypeVar("Labelled", Counter, Histogram)


def with_series(metric: Labelled, values: Iterable[str]) -> Labelled:
    """Return a metric of one label with a series for each of its values, so that rates begin at 0."""
    for value in values:
        metric.labels(value)
    return metric


class MetricsExport:
    """Carries what registries hold to Triton's endpoint, with the node as a label, until it is stopped.
    Counters of several instances of a node add up. Gauges have a label `instance`."""

    def __init__(
        self, backend: ModuleType, node: str, instance: str, registries: Sequence[CollectorRegistry]
    ) -> None:
        """`backend` is Triton's `triton_python_backend_utils`."""
        self._backend = backend
        self._labels = {"node": node}
        self._instance = {"instance": instance}
        self._registries = registries
        # A metric lives as long as its family does.
        self._families: dict[str, Any] = {}
        self._metrics: dict[Series, Any] = {}
        self._exported: dict[Series, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin, with every series at its first value."""
        self._export()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was counted since its last look is not carried over."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(EXPORT_S):
            try:
                self._export()
            except Exception:  # Requests are answered without metrics too.
                log.exception("metrics were not exported")

    def _export(self) -> None:
        for registry in self._registries:
            for metric in registry.collect():
                for sample in metric.samples:
                    series = (sample.name, tuple(sorted(sample.labels.items())))
                    before = self._exported.get(series)
                    same = before == sample.value or (before != before and sample.value != sample.value)
                    if sample.name.endswith("_created") or same:
                        continue
                    target = self._metric(series, metric)
                    if metric.type == "gauge":
                        target.set(sample.value)
                    else:
                        target.increment(sample.value - (before or 0))
                    self._exported[series] = sample.value

    def _metric(self, series: Series, metric: Metric) -> Any:
        if series not in self._metrics:
            name, labels = series
            gauge = metric.type == "gauge"
            if name not in self._families:
                kinds = self._backend.MetricFamily
                self._families[name] = kinds(
                    name=name, description=metric.documentation, kind=kinds.GAUGE if gauge else kinds.COUNTER
                )
            fixed = self._labels | (self._instance if gauge else {})
            self._metrics[series] = self._families[name].Metric(labels=fixed | dict(labels))
        return self._metrics[series]
