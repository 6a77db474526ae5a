"""A function at one shape, with buffers that stay where they are: launched as it is, or as a CUDA graph.

Shapes: W words of a whole batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemble.kv.cuda.device_memory import without_releases

Words = TypeVar("Words", bound=Any)

Function = Callable[[Mapping[str, Tensor]], Tensor]
"""Fields of a batch on the device to what is computed of them, always of the same shape."""

WARM_UPS = 2
"""Calls before a capture: the first compiles, and libraries settle their choices."""


@dataclass(frozen=True, slots=True)
class Capture:
    """Where all graphs of a process are captured."""

    pool: Any
    """The memory that they share, a handle as `torch.cuda.graph_pool_handle` gives it."""
    stream: torch.cuda.Stream
    """One for all: libraries keep memory for each stream that they have met."""


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of integers, a row for each row of the batch."""

    shape: tuple[int, ...]
    blank: int = 0
    """What the rows hold that nobody asked for."""


class Packing:
    """Everything a batch brings, as one row of integers that crosses to the device in one copy."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self.words = sum(math.prod(field.shape) for field in fields.values())

    def views(self, words_W: Words) -> dict[str, Words]:
        """Return each field as a view of an array or tensor [W]."""
        views, begin = {}, 0
        for name, field in self._fields.items():
            end = begin + math.prod(field.shape)
            views[name] = words_W[begin:end].reshape(field.shape)
            begin = end
        return views

    def clear(self, views: Mapping[str, NDArray[np.int64]]) -> None:
        """Make all rows blank."""
        for name, field in self._fields.items():
            views[name][...] = field.blank


class StaticCall:
    """One shape of one function.

    Inputs are written into `fields` in host memory, cross in one copy, and the result comes back in one; on a
    GPU both are pinned. Nothing waits for the device but `result`.
    """

    def __init__(self, function: Function, packing: Packing, device: torch.device) -> None:
        self._function = function
        self._packing = packing
        self._pinned = device.type == "cuda"
        self._staged_W = torch.empty(packing.words, dtype=torch.int64, pin_memory=self._pinned)
        self._words_W = torch.empty(packing.words, dtype=torch.int64, device=device)
        self._fields = packing.views(self._words_W)
        self._output: Tensor | None = None
        self._host_output: Tensor | None = None
        self._copied: torch.cuda.Event | None = torch.cuda.Event() if self._pinned else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._staged: dict[str, NDArray[np.int64]] = packing.views(self._staged_W.numpy())

    @property
    def is_captured(self) -> bool:
        """Return whether a launch replays a graph."""
        return self._graph is not None

    def blank(self) -> dict[str, NDArray[np.int64]]:
        """Return the fields in host memory, blank, once the device has read those of the launch before."""
        if self._copied is not None:
            self._copied.synchronize()
        self._packing.clear(self._staged)
        return self._staged

    def warm_up(self, capture: Capture | None) -> None:
        """Compile for this shape by calls without a user, and capture it."""
        self.blank()
        self._to_device()
        if capture is None:
            self._run()
            return
        serving = torch.cuda.current_stream(self._words_W.device)
        capture.stream.wait_stream(serving)
        with torch.cuda.stream(capture.stream):
            for _ in range(WARM_UPS):
                self._run()
        serving.wait_stream(capture.stream)
        graph = torch.cuda.CUDAGraph()
        # Only what this thread launches belongs to the graph.
        mode = {"pool": capture.pool, "stream": capture.stream, "capture_error_mode": "thread_local"}
        with without_releases(), torch.cuda.graph(graph, **mode):
            self._run()
        self._graph = graph

    def launch(self) -> None:
        """Compute from the fields as they are."""
        self._to_device()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()

    def result(self) -> NDArray[Any]:
        """Return what the launch computed, once the device is done; valid until the next launch."""
        if self._output is None:
            raise RuntimeError("nothing was launched")
        if not self._pinned:
            return self._output.numpy()
        if self._host_output is None:
            self._host_output = torch.empty(self._output.shape, dtype=self._output.dtype, pin_memory=True)
        self._host_output.copy_(self._output, non_blocking=True)
        torch.cuda.current_stream(self._output.device).synchronize()
        return self._host_output.numpy()

    def _to_device(self) -> None:
        self._words_W.copy_(self._staged_W, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _run(self) -> None:
        computed = self._function(self._fields)
        if self._output is None:
            # Outside the graphs' memory, which other graphs use too.
            self._output = torch.empty_like(computed)
        self._output.copy_(computed)
