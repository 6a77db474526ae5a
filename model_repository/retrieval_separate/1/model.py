"""Encodes histories and makes query embeddings, and leaves nothing for ranking: the baseline's retrieval."""

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.node import TritonNode
from ensemble.retrieval import RetrievalNode


class TritonPythonModel:
    """Triton's entry point for the `retrieval_separate` node."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""
        self._node = TritonNode(pb_utils, args, RetrievalNode)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
