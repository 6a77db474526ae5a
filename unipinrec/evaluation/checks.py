"""What the metrics refuse."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_numbers(name: str, values: NDArray[np.floating[Any]]) -> None:
    """Refuse nan.

    Raises:
        ValueError: one of the values is nan.
    """
    nan = np.isnan(values)
    if nan.any():
        place = ", ".join(str(index) for index in np.unravel_index(nan.argmax(), values.shape))
        raise ValueError(f"{name}[{place}] is nan; allowed: a number")


def check_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != shape:
        raise ValueError(f"shape of {name} is {values.shape}; allowed: {shape}")


def check_indices(name: str, indices: NDArray[np.int64], size: int) -> None:
    """Refuse indices outside an array of `size`, negative ones too.

    Raises:
        ValueError: an index is not in [0, size).
    """
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        raise ValueError(f"{name} is {indices[outside][0]}; allowed: 0 to {size - 1}")


def check_offsets(name: str, offsets: NDArray[np.int64], size: int) -> None:
    """Refuse offsets that do not split `size` entries into consecutive groups.

    Raises:
        ValueError: the first is not 0, the last is not `size`, or one is below the one before it.
    """
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} is {offsets}; allowed: ascending from 0 to {size}")


def check_at_least(name: str, value: float, least: int) -> None:
    """Refuse a value below `least`.

    Raises:
        ValueError: it is below.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; allowed: {least} or more")
