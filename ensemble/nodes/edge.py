"""Between Triton's Python backend and the first node of the graph, which admits requests."""

from collections.abc import Mapping
from typing import Any

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.admission import Admission
from ensemble.nodes.contract import CANARY, InvalidInputError
from ensemble.nodes.in_flight import Ticket
from ensemble.nodes.node import EntryPoint, Node
from ensemble.settings import ServingSettings


class EdgeEntryPoint(EntryPoint):
    """Base of the edge's `TritonPythonModel`."""

    def make(
        self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]
    ) -> Node[Any, Any]:
        """Return the node, whose metrics tell of admission too."""
        node = super().make(loaded, settings, args)
        self._admission = Admission.of(settings)
        node.metrics.register(self._admission)
        return node

    def ticket(self, request: Any) -> Ticket:
        """Return the ticket of a request that is let in. What is refused costs no more than this, for an
        overloaded server gets many of them. Raises `RefusedError`, and `InvalidInputError` for no users."""
        tensor = self._backend.get_input_tensor_by_name(request, "USER_ID")
        if tensor is None:
            raise InvalidInputError("USER_ID is missing; allowed: 1 to 16 users")
        return self._admission.admit(
            tensor.shape()[0], request.timeout(), canary=request.request_id() == CANARY
        )
