"""Admits requests, and looks up, checks and windows histories."""

from ensemble.nodes.edge import EdgeEntryPoint
from ensemble.nodes.history import HistoryNode


class TritonPythonModel(EdgeEntryPoint):
    """Triton's entry point for the `history` node."""

    node = HistoryNode
