"""Finds candidates in the item index."""

from ensemble.nodes.ann import AnnNode
from ensemble.nodes.node import EntryPoint


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `ann` node."""

    computes = True
    node = AnnNode
