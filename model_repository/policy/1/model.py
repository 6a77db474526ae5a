"""Decides which utility weights requests get, and answers questions about it."""

from ensemble.nodes.node import EntryPoint
from ensemble.nodes.policy import PolicyNode


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `policy` node."""

    node = PolicyNode
    exports_metrics = False
