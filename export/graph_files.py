"""Compiles a model's graphs into files, and opens them as a server does."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import onnxruntime
import torch
from torch import Tensor, nn

from unipinrec.graph import load_graph
from unipinrec.models.common.exports import Graph, OnnxNames


def write_graph(path: Path, graph: Graph) -> Callable[..., object]:
    """Write a graph in its format, and return it as the file has it."""
    eager = graph.module.eval()
    if graph.onnx is None:
        return _write_torchscript(path, eager)
    return _write_onnx(path, eager, graph.calls[0], graph.onnx)


def _write_torchscript(path: Path, eager: nn.Module) -> Callable[..., object]:
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is a format this project promises.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.freeze(torch.jit.script(eager)), str(path))
    return load_graph(path)


def _write_onnx(
    path: Path, eager: nn.Module, example: tuple[object, ...], names: OnnxNames
) -> Callable[..., object]:
    axes = {axis for shape in names.inputs.values() for axis in shape}
    sizes = {axis: torch.export.Dim(axis) for axis in axes}
    shapes = {name: {i: sizes[axis] for i, axis in enumerate(axes)} for name, axes in names.inputs.items()}
    with _quiet():
        exported = torch.onnx.export(
            eager,
            example,
            input_names=list(names.inputs),
            output_names=[names.output],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = cast(torch.onnx.ONNXProgram, exported).model_proto
    # Where in the code a node comes from: paths of the exporting machine, and nothing that computes.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString(deterministic=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in zip(names.inputs, inputs, strict=True)}
        return torch.from_numpy(session.run([names.output], arrays)[0])

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the exporter's remarks on itself; what it cannot export is an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
