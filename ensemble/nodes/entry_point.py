"""What every `model_repository/<node>/1/model.py` is: a node, as Triton's Python backend calls it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.node import Node, TritonNode
from ensemble.settings import ServingSettings


class EntryPoint:
    """Base of `TritonPythonModel`, the class that the Python backend looks for.

    A node names its class; what needs to know more of its instance overrides `make`.
    """

    node: ClassVar[Callable[[LoadedBundle, ServingSettings], Node[Any, Any]]]

    def make(
        self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]
    ) -> Node[Any, Any]:
        """Return the node. `args` is what Triton tells an instance about itself."""
        del args
        return type(self).node(loaded, settings)

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the server's settings name."""
        # Only the backend's own processes have this module.
        backend = import_module("triton_python_backend_utils")
        self._node = TritonNode(backend, args, lambda loaded, settings: self.make(loaded, settings, args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        return self._node.execute(requests)

    def finalize(self) -> None:
        """Release what the node holds."""
        self._node.close()
