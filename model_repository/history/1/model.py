"""Looks up, checks and windows histories."""

from ensemble.nodes.entry_point import EntryPoint
from ensemble.nodes.history import HistoryNode


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `history` node."""

    node = HistoryNode
