"""Encodes histories once and makes query embeddings."""

from collections.abc import Mapping

from ensemble.executors.engines import engine_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import EntryPoint
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.settings import ServingSettings


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `retrieval` node."""

    computes = True

    def make(self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]) -> RetrievalNode:
        """Return the node with a KV pool of this instance."""
        engine = engine_of(args, loaded, settings)
        node = RetrievalNode(loaded, settings, engine, args["model_instance_name"])
        node.follow_deletions(settings)
        return node
