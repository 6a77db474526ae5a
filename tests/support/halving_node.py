"""A node that nobody needs: it halves scores, so that a test can add a node to the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.arrays import Floats
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import Arrays
from ensemble.settings import ServingSettings


class HalvingNode:
    """Scores in, half of each out; the lowest float32, which pads rows, stays."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        del loaded, settings
        self.metrics = CollectorRegistry()

    def parse(self, arrays: Arrays) -> list[Floats]:
        return list(arrays["SCORES"])

    def run(self, rows: Sequence[Floats]) -> list[Floats]:
        lowest = np.finfo(np.float32).min
        return [np.where(score_K == lowest, score_K, score_K / 2) for score_K in rows]

    def pack(self, rows: Sequence[Floats]) -> dict[str, NDArray[Any]]:
        return {"HALVED": np.stack(rows)}

    def close(self) -> None:
        pass
