"""Looks up, checks and windows histories."""

from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import EntryPoint


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `history` node."""

    node = HistoryNode
