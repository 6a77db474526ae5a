"""A node that says what came with a request beside its tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import ADMIN_KEY, ASKED_OUTPUTS, REQUEST_ID, Arrays
from ensemble.settings import ServingSettings

CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "ANY" data_type: TYPE_STRING dims: [ -1 ] } ]
output [
  { name: "REQUEST_IDS" data_type: TYPE_STRING dims: [ -1, 1 ] },
  { name: "KEYS" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "ASKED" data_type: TYPE_STRING dims: [ -1 ] }
]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""
NO_KEY = b"none"


class EchoingNode:
    """Any tensor in, the request's id, its admin key and what it asks for out."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        del loaded, settings
        self.metrics = CollectorRegistry()

    def parse(self, arrays: Arrays) -> list[Arrays]:
        return [arrays]

    def run(self, rows: Sequence[Arrays]) -> list[Arrays]:
        return list(rows)

    def pack(self, rows: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
        (arrays,) = rows
        key = arrays.get(ADMIN_KEY, np.array([NO_KEY], np.object_))
        return {"REQUEST_IDS": arrays[REQUEST_ID], "KEYS": key, "ASKED": arrays[ASKED_OUTPUTS]}

    def close(self) -> None:
        pass
