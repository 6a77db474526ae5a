"""Checks of what the metrics are given. Each raises `ValueError` with the value and what is allowed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipinrec.arrays import AnyFloats, Int64s


def check_numbers(name: str, values: AnyFloats) -> None:
    """Refuse values of which any is nan."""
    nan = np.isnan(values)
    if nan.any():
        index = ", ".join(str(index) for index in np.unravel_index(nan.argmax(), values.shape))
        raise ValueError(f"{name}[{index}] is nan; allowed: a number")


def check_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if values.shape != shape:
        raise ValueError(f"shape of {name} is {values.shape}; allowed: {shape}")


def check_indices(name: str, indices: Int64s, size: int) -> None:
    """Refuse indices outside an array of `size`, negative ones too."""
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        raise ValueError(f"{name} is {indices[outside][0]}; allowed: 0 to {size - 1}")


def check_at_least(name: str, value: float, least: int) -> None:
    """Refuse a value below `least`."""
    if value < least:
        raise ValueError(f"{name} is {value}; allowed: {least} or more")
