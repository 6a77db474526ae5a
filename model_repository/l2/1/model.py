"""Ranks candidates once more, by the second ranker."""

from ensemble.nodes.l2 import L2Node
from ensemble.nodes.node import EntryPoint


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `l2` node."""

    node = L2Node
