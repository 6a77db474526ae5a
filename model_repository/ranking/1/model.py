"""Scores candidates over the cached histories."""

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.executors.engines import engine_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import TritonNode
from ensemble.nodes.ranking import RankingNode
from ensemble.settings import ServingSettings


class TritonPythonModel:
    """Triton's entry point for the `ranking` node."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""

        def make(loaded: LoadedBundle, settings: ServingSettings) -> RankingNode:
            return RankingNode(loaded, settings, engine_of(args, loaded, settings))

        self._node = TritonNode(pb_utils, args, make)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
