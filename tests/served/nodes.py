"""Single nodes of the graph: called, so that a test can stand between them, and killed."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest

from ensemble.graph import MODEL_REPOSITORY, Tensors, call_server, ensembles_in
from ensemble.nodes.metrics import EXPORT_S
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from tests.support.node_inputs import inputs_of as inputs_of_node

RECOMMEND = ensembles_in(MODEL_REPOSITORY)["recommend"]
NODES = tuple(step.node for step in RECOMMEND.steps)
RECOVERY_S = 240.0
"""A GPU's nodes load their programs and capture graphs; a CPU's are back within seconds."""


def int64(*values: int) -> NDArray[np.int64]:
    """The values of one user."""
    return np.array([values], np.int64)


def floats(*values: float) -> NDArray[np.float32]:
    """The values of one user."""
    return np.array([values], np.float32)


def inputs_of(tensors: Mapping[str, NDArray[Any]], protocol: ModuleType = triton) -> list[Any]:
    """The tensors as inputs of an inference over gRPC, or over another protocol of tritonclient."""
    inputs = []
    for name, array in tensors.items():
        inputs.append(protocol.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def call(
    server: EmbeddedServer | Endpoints,
    model: str,
    tensors: Mapping[str, NDArray[Any]],
    timeout_s: int | None = None,
) -> Tensors:
    """All outputs of an inference, for which the server is told to take `timeout_s` at most."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        return call_server(client, timeout_s)(model, dict(tensors))


def answer_by_steps(
    server: EmbeddedServer,
    request: Mapping[str, NDArray[Any]],
    at_ranking: Callable[[Tensors], Tensors | None] = lambda inputs: inputs,
) -> Tensors:
    """Return what the ensemble answers when its nodes are called one by one.

    `at_ranking` stands before that node: it returns what the node shall get, or None to leave that as it is.
    """

    def step(node: str, inputs: Tensors) -> Tensors:
        return call(server, node, (at_ranking(inputs) or inputs) if node == "ranking" else inputs)

    return RECOMMEND.run(request, step)


def until_ranking(
    server: EmbeddedServer, request: Mapping[str, NDArray[Any]], timeout_s: int | None = None
) -> Tensors:
    """Return the inputs of `ranking`, after the nodes before it have run."""
    return inputs_of_node(RECOMMEND, "ranking", dict(request), partial(call, server, timeout_s=timeout_s))


def kill(processes: Iterable[int]) -> None:
    """End processes of nodes when they have told Triton all that they counted.

    Triton 2.51 may abort when a process dies while it does so: docs/operations.md. So nothing else may ask
    the server meanwhile.
    """
    time.sleep(2 * EXPORT_S)
    for process in processes:
        os.kill(process, signal.SIGKILL)


def until_recovered(server: EmbeddedServer, instances: Mapping[str, int], client: GrpcClient) -> set[str]:
    """Ask until each node has so many instances, none too many, and ten requests in a row are answered.

    Returns what requests failed with meanwhile.
    """
    deadline = time.monotonic() + RECOVERY_S
    failures: set[str] = set()
    answered = 0
    while answered < 10:
        server.check_running()
        assert time.monotonic() < deadline
        try:
            client.recommend(RecommendRequest(user_id="user-0"))
            answered += 1
        except RecommendError as error:
            failures.add(str(error))
            answered = 0
            time.sleep(0.1)
        if instances_of(server, instances) != instances:
            answered = 0
    return failures


def instances_of(server: EmbeddedServer, nodes: Iterable[str] = NODES) -> dict[str, int]:
    """How many processes each node has."""
    return {node: len(server.node_processes(node)) for node in nodes}
