"""Compares an exported graph with eager PyTorch before it may enter a bundle."""

from collections.abc import Callable

from torch import nn

from unipinrec.graph import ShapeMismatchError, differences

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
    try:
        found = differences(exported, eager, inputs, RUNS)
    except ShapeMismatchError as error:
        raise ExportMismatchError(f"{name} {error}, as eager has") from error
    for difference in found:
        if not difference <= TOLERANCE:
            raise ExportMismatchError(
                f"{name} differs from eager by {difference:.2e}; allowed: 0 to {TOLERANCE:.0e}"
            )
    return max(found, default=0.0)
