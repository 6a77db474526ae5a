"""Ranks candidates once more, by the second ranker."""

from collections.abc import Mapping

from ensemble.executors.engines import second_ranker_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.l2 import L2Node
from ensemble.nodes.node import EntryPoint
from ensemble.settings import ServingSettings


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `l2` node."""

    computes = True

    def make(self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]) -> L2Node:
        """Return the node with what it computes with where the instance runs."""
        return L2Node(loaded, second_ranker_of(args, loaded, settings), settings)
