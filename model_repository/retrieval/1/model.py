"""Encodes histories once and makes query embeddings."""

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.executors.engines import engine_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import TritonNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.settings import ServingSettings


class TritonPythonModel:
    """Triton's entry point for the `retrieval` node."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""

        def make(loaded: LoadedBundle, settings: ServingSettings) -> RetrievalNode:
            engine = engine_of(args, loaded, settings)
            return RetrievalNode(loaded, settings, engine, args["model_instance_name"])

        self._node = TritonNode(pb_utils, args, make)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
