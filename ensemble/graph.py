"""The serving graph, as the `config.pbtxt` of an ensemble wires it.

Triton runs the steps of an ensemble between processes. What runs them in one process, or stands between two
of them, reads the same file, so that a node is wired in one place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import np_to_triton_dtype

from ensemble.nodes.node import Node
from ensemble.settings import ROOT

MODEL_REPOSITORY = ROOT / "model_repository"

Tensors = dict[str, NDArray[Any]]

CallNode = Callable[[str, Tensors], Tensors]
"""Takes the name of a node and its inputs, and returns its outputs."""


def read_config(path: Path) -> ModelConfig:
    """Return the configuration of a model, as Triton reads it."""
    return text_format.Parse(path.read_text(), ModelConfig())


def call_in_process(nodes: Mapping[str, Node[Any, Any]]) -> CallNode:
    """Return what calls nodes that live in this process, by their names in the repository."""

    def call(name: str, inputs: Tensors) -> Tensors:
        node = nodes[name]
        return node.pack(node.run(node.parse(inputs)))

    return call


def call_server(client: InferenceServerClient, timeout_s: float | None = None) -> CallNode:
    """Return what calls a server's models, ensembles among them, for all of their outputs. The call raises
    `InferenceServerException` for a request that failed, or took longer than `timeout_s`."""

    def call(model: str, tensors: Tensors) -> Tensors:
        inputs = []
        for name, array in tensors.items():
            inputs.append(InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        told_us = None if timeout_s is None else int(1e6 * timeout_s)
        result = client.infer(model, inputs, client_timeout=timeout_s, timeout=told_us)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    return call


@dataclass(frozen=True, slots=True)
class Step:
    """One node of an ensemble."""

    node: str
    inputs: Mapping[str, str]
    """The ensemble's tensor for each input of the node."""
    outputs: Mapping[str, str]
    """The ensemble's tensor for each output of the node."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of one ensemble, each behind those whose outputs it reads."""

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return the graph of an ensemble's configuration."""
        steps = [
            Step(step.model_name, dict(step.input_map), dict(step.output_map))
            for step in config.ensemble_scheduling.step
        ]
        return cls(tuple(steps), tuple(output.name for output in config.output))

    @property
    def nodes(self) -> set[str]:
        """The names of the models that the ensemble calls."""
        return {step.node for step in self.steps}

    def run(self, request: Mapping[str, NDArray[Any]], call: CallNode) -> Tensors:
        """Return the outputs of the ensemble for one request."""
        tensors = dict(request)
        for step in self.steps:
            # Optional tensors that the request leaves out are absent.
            given = {name: tensors[outer] for name, outer in step.inputs.items() if outer in tensors}
            made = call(step.node, given)
            tensors.update({outer: made[name] for name, outer in step.outputs.items()})
        return {name: tensors[name] for name in self.outputs}


def ensembles_in(model_repository: Path) -> dict[str, Graph]:
    """Return the graph of every ensemble of a repository, by name."""
    configs = {path.parent.name: read_config(path) for path in model_repository.glob("*/config.pbtxt")}
    return {
        name: Graph.of(config) for name, config in sorted(configs.items()) if config.platform == "ensemble"
    }
