"""Admits requests, and looks up, checks and windows histories."""

from collections.abc import Mapping

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.admission import Admission
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import EntryPoint
from ensemble.settings import ServingSettings


class TritonPythonModel(EntryPoint):
    """Triton's entry point for the `history` node."""

    def make(self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]) -> HistoryNode:
        """Return the node with the admission of all requests."""
        del args
        return HistoryNode(loaded, settings, Admission.of(settings))
