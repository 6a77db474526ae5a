"""The TorchScript graphs of a bundle: opened, and compared with what they were made of."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


class ShapeMismatchError(Exception):
    """A graph answers with tensors of other shapes than it should."""


def load_graph(path: Path) -> torch.jit.ScriptModule:
    """A graph, ready to call."""
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is a format this project promises.
        warnings.simplefilter("ignore", DeprecationWarning)
        graph: torch.jit.ScriptModule = torch.jit.load(str(path))
    return graph


def differences(
    graph: Callable[..., object], eager: Callable[..., object], inputs: tuple[object, ...], runs: int
) -> list[float]:
    """Return the largest absolute difference of each output, and of each input that is written into, in
    `runs` calls. Raises `ShapeMismatchError` if shapes differ."""
    with torch.inference_mode():
        expected = _tensors(_run(eager, inputs))
        pairs = [
            pair for _ in range(runs) for pair in zip(_tensors(_run(graph, inputs)), expected, strict=True)
        ]
    for found, right in pairs:
        if found.shape != right.shape:
            raise ShapeMismatchError(f"has shape {tuple(found.shape)}; allowed: {tuple(right.shape)}")
    return [float((found - right).abs().max()) for found, right in pairs]


def _run(graph: Callable[..., object], inputs: tuple[object, ...]) -> tuple[object, ...]:
    """What a graph returns, and copies of the inputs as it leaves them."""
    copies = copy.deepcopy(inputs)
    return (graph(*copies), *copies)


def _tensors(value: object) -> list[Tensor]:
    """All floating tensors with elements within nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.numel() else []
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []
