"""One function at every shape of its buckets, compiled and captured before a request needs it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensemble.executors.cuda.buckets import Bucket, Buckets
from ensemble.executors.cuda.static_call import Capture, StaticCall


@dataclass(slots=True)
class Launches:
    """What all functions of a process have launched, and where they capture graphs."""

    capture: Capture | None
    """None: nothing is captured."""
    captured: int = 0
    count: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)

    @classmethod
    def on(cls, device: torch.device, *, capture: bool) -> "Launches":
        """Return those of a device; only a GPU captures."""
        return cls(Capture.on(device) if capture and device.type == "cuda" else None)

    def collect(self) -> Iterable[Metric]:
        """Yield the counts as metrics of Prometheus' library."""
        yield GaugeMetricFamily("unipinrec_cuda_graphs", "CUDA graphs captured", self.captured)
        launches = CounterMetricFamily(
            "unipinrec_launches", "Batches by how they were launched", labels=["by"]
        )
        for by in ("graph", "eager"):
            launches.add_metric([by], self.count[by])
        yield launches
        rows = CounterMetricFamily("unipinrec_bucket_rows", "Rows of padded batches", labels=["kind"])
        for kind in ("user", "padding"):
            rows.add_metric([kind], self.rows[kind])
        yield rows


class Calls:
    """A function's calls by shape."""

    def __init__(self, buckets: Buckets, make: Callable[[Bucket], StaticCall], launches: Launches) -> None:
        """Make and warm up every shape, the largest first."""
        self._buckets = buckets
        self._launches = launches
        self._calls: dict[Bucket, StaticCall] = {}
        for bucket in buckets.largest_first():
            call = make(bucket)
            call.warm_up(launches.capture)
            launches.captured += call.is_captured
            self._calls[bucket] = call

    def split(self, sizes: Sequence[int]) -> Iterator[tuple[StaticCall, Bucket, list[int]]]:
        """Yield the calls that rows of so many tokens need, their shapes, and the places of their rows."""
        for bucket, places in self._buckets.split(sizes):
            call = self._calls[bucket]
            self._launches.count["graph" if call.is_captured else "eager"] += 1
            self._launches.rows["user"] += len(places)
            self._launches.rows["padding"] += bucket.batch - len(places)
            yield call, bucket, places
