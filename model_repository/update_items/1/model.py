"""Adds, updates and removes items."""

from ensemble.nodes.node import EntryPoint
from ensemble.nodes.update_items import UpdateItemsNode


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `update_items` node."""

    node = UpdateItemsNode
