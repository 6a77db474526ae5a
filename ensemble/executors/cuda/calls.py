"""One function at every shape of its buckets, compiled and captured before a request needs it.

Batches are padded to the few shapes of its buckets.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, Protocol, TypeVar

import torch
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from ensemble.executors.cuda.static_call import Capture, StaticCall
from unipinrec.models.common.slot_attention import BLOCK

BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A shape: rows, and the tokens of each, which are new positions of a history, or candidates."""

    batch: int
    size: int


class Buckets:
    """All shapes of one function."""

    def __init__(self, sizes: Sequence[int], batches: Sequence[int] = BATCHES) -> None:
        self._sizes = sorted(set(sizes))
        self._batches = sorted(set(batches))

    def largest_first(self) -> list[Bucket]:
        """Return every shape. What the largest needs of the graphs' shared memory then serves all others."""
        return [Bucket(batch, size) for size in self._sizes[::-1] for batch in self._batches[::-1]]

    def split(self, sizes: Sequence[int]) -> list[tuple[Bucket, list[int]]]:
        """Return rows of so many tokens as batches: their shape, and the places of their rows.

        Rows of different sizes do not share a batch: a short continuation would pay for a whole history.
        Raises `ValueError` if a row has more tokens than the largest shape.
        """
        fitting = [self._fit(size) for size in sizes]
        by_size = sorted(range(len(sizes)), key=lambda place: fitting[place])
        batches = []
        for size, group in groupby(by_size, key=lambda place: fitting[place]):
            places = list(group)
            for first in range(0, len(places), self._batches[-1]):
                rows = places[first : first + self._batches[-1]]
                batch = next(batch for batch in self._batches if batch >= len(rows))
                batches.append((Bucket(batch, size), rows))
        return batches

    def _fit(self, size: int) -> int:
        for fitting in self._sizes:
            if size <= fitting:
                return fitting
        raise ValueError(f"a row has {size} tokens; allowed: 1 to {self._sizes[-1]}")


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
        """Return the launches on a device; only a GPU captures."""
        if not capture or device.type != "cuda":
            return cls(None)
        return cls(Capture(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)))

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


class Shape(Protocol):
    """What a function is captured for."""

    @property
    def batch(self) -> int:
        """Return the most rows of a batch."""


Size = TypeVar("Size")
Shaped = TypeVar("Shaped", bound=Shape)
SizeOf = TypeVar("SizeOf", contravariant=True)
ShapedOf = TypeVar("ShapedOf", bound=Shape, covariant=True)


class Shapes(Protocol[SizeOf, ShapedOf]):
    """All shapes of one function, as `Buckets` are."""

    def largest_first(self) -> Sequence[ShapedOf]:
        """Return every shape."""

    def split(self, sizes: Sequence[SizeOf]) -> Sequence[tuple[ShapedOf, list[int]]]:
        """Return rows of these sizes as batches: their shape, and the places of their rows."""


class Calls(Generic[Size, Shaped]):
    """A function's calls by shape."""

    def __init__(
        self, buckets: Shapes[Size, Shaped], make: Callable[[Shaped], StaticCall], launches: Launches
    ) -> None:
        """Make and warm up every shape, the largest first."""
        self._buckets = buckets
        self._launches = launches
        self._calls: dict[Shaped, StaticCall] = {}
        for bucket in buckets.largest_first():
            call = make(bucket)
            call.warm_up(launches.capture)
            launches.captured += call.is_captured
            self._calls[bucket] = call

    def split(self, sizes: Sequence[Size]) -> Iterator[tuple[StaticCall, Shaped, list[int]]]:
        """Yield the calls that rows of these sizes need, their shapes, and the places of their rows."""
        for bucket, places in self._buckets.split(sizes):
            call = self._calls[bucket]
            self._launches.count["graph" if call.is_captured else "eager"] += 1
            self._launches.rows["user"] += len(places)
            self._launches.rows["padding"] += bucket.batch - len(places)
            yield call, bucket, places


def history_sizes(max_positions: int) -> list[int]:
    """Return sizes of new positions: a few events of a returning user, more of them, and a whole window."""
    return [size for size in (16, 64, 256) if size < max_positions] + [max_positions]


def candidate_sizes(max_candidates: int) -> list[int]:
    """Return sizes of candidates: whole blocks of the kernel, doubling, and the most of a request."""
    sizes = [BLOCK]
    while sizes[-1] < max_candidates:
        sizes.append(2 * sizes[-1])
    return [*sizes[:-1], max_candidates]
