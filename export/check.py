"""Compares an exported graph with eager PyTorch before it may enter a bundle."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""Largest difference between an exported graph and eager, in float32."""

RUNS = 3
"""TorchScript rewrites a graph after its first runs, so that one run alone would not show what is served."""


class ExportMismatchError(Exception):
    """An exported graph answers differently from eager PyTorch."""


def refuse_if_different(
    name: str, exported: Callable[..., object], eager: nn.Module, inputs: tuple[object, ...]
) -> float:
    """Return the largest absolute difference of all outputs, and of what was written into the inputs.

    Raises `ExportMismatchError` if shapes differ, or a difference is above `TOLERANCE` or not a number.
    """
    with torch.inference_mode():
        expected = _tensors(_run(eager, inputs))
        pairs = [
            pair for _ in range(RUNS) for pair in zip(_tensors(_run(exported, inputs)), expected, strict=True)
        ]
    largest = 0.0
    for found, right in pairs:
        if found.shape != right.shape:
            raise ExportMismatchError(
                f"{name} has shape {tuple(found.shape)}; allowed: {tuple(right.shape)}, as eager has"
            )
        difference = float((found - right).abs().max())
        if not difference <= TOLERANCE:
            raise ExportMismatchError(
                f"{name} differs from eager by {difference:.2e}; allowed: 0 to {TOLERANCE:.0e}"
            )
        largest = max(largest, difference)
    return largest


def _run(graph: Callable[..., object], inputs: tuple[object, ...]) -> tuple[object, ...]:
    """What a graph returns, and copies of the inputs as it leaves them."""
    copies = copy.deepcopy(inputs)
    return (graph(*copies), *copies)


def _tensors(value: object) -> list[Tensor]:
    """All floating tensors with elements within nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.numel() else []
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple | list) else []
