"""What stands between two nodes of an ensemble."""

from ensemble.graph import CallNode, Graph, Tensors


class _ReachedError(Exception):
    """The node is about to be called."""


def inputs_of(graph: Graph, node: str, request: Tensors, call: CallNode) -> Tensors:
    """Return what a node is given for one request, once the nodes before it have run."""
    given: Tensors = {}

    def call_until(name: str, inputs: Tensors) -> Tensors:
        if name == node:
            given.update(inputs)
            raise _ReachedError
        return call(name, inputs)

    try:
        graph.run(request, call_until)
    except _ReachedError:
        return given
    raise KeyError(node)
