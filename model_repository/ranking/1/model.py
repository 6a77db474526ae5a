"""Predicts the actions on candidates over the cached histories."""

from collections.abc import Mapping

from ensemble.executors.engines import engine_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import EntryPoint
from ensemble.nodes.ranking import RankingNode
from ensemble.settings import ServingSettings


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `ranking` node."""

    computes = True

    def make(self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]) -> RankingNode:
        """Return the node with the engine of where the instance runs."""
        return RankingNode(loaded, settings, engine_of(args, loaded, settings))
