"""Scores, sorts and cuts candidates."""

from ensemble.nodes.node import EntryPoint
from ensemble.nodes.scoring import ScoringNode


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `scoring` node."""

    node = ScoringNode
    answers = True
