"""Encodes histories once and makes query embeddings."""

from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.node import TritonNode
from ensemble.retrieval import RetrievalNode


class TritonPythonModel:
    """Triton's entry point for the `retrieval` node."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""
        make = partial(RetrievalNode, instance=args["model_instance_name"])
        self._node = TritonNode(pb_utils, args, make)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
