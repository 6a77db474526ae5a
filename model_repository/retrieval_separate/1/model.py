"""Encodes histories and makes query embeddings, and leaves nothing for ranking: the baseline's retrieval."""

from collections.abc import Mapping

from ensemble.executors.engines import engine_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import EntryPoint
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.settings import ServingSettings


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `retrieval_separate` node."""

    computes = True

    def make(self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]) -> RetrievalNode:
        """Return the node without a KV pool."""
        return RetrievalNode(loaded, settings, engine_of(args, loaded, settings))
