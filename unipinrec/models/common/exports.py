"""What a bundle holds of a model; whoever serves it reads no datasets, nor do these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class OnnxNames:
    """What an ONNX graph calls its inputs and its output."""

    inputs: Mapping[str, tuple[str, ...]]
    """The module's arguments in their order, and of each the first axes, those whose sizes vary."""
    output: str


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph of an export."""

    module: nn.Module
    """What is compiled."""
    calls: Sequence[tuple[object, ...]]
    """Arguments of different sizes, by which the exported graph is compared with the module. The first has no
    axis of size 1 that varies."""
    onnx: OnnxNames | None = None
    """For a graph in ONNX; None: one in TorchScript."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What serves out of the file of weights, without a graph."""

    load: Callable[[Path], nn.Module]
    """Returns what serving runs of the file."""
    module: nn.Module
    """What it is compared with."""
    calls: Sequence[tuple[object, ...]]
    """Arguments of different sizes."""


@dataclass(frozen=True, slots=True)
class Exports:
    """What a bundle holds of one model."""

    graphs: Mapping[str, Graph]
    """By file name."""
    weights: Mapping[str, Tensor] | None = None
    """What an executor without these graphs computes with, by name."""
    item_vector_VE: Tensor | None = None
    """Vectors of the catalogue, for the item index. None: the model can't be a bundle's first."""
    reloaded: Reloaded | None = None
    """For a model that is served out of its weights."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Further files, by name."""
