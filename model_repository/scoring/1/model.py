"""Scores, sorts and cuts candidates."""

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.nodes.node import TritonNode
from ensemble.nodes.scoring import ScoringNode


class TritonPythonModel:
    """Triton's entry point for the `scoring` node."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""
        self._node = TritonNode(pb_utils, args, ScoringNode)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
