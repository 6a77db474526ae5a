"""Everything a batch brings, as one row of integers that crosses to the device in one copy.

Shapes: W words of a whole batch.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = TypeVar("Words", bound=Any)


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of integers, a row for each row of the batch."""

    shape: tuple[int, ...]
    blank: int = 0
    """What the rows hold that nobody asked for."""


class Packing:
    """Where each field stands among the words."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self.words = sum(math.prod(field.shape) for field in fields.values())

    def views(self, words_W: Words) -> dict[str, Words]:
        """Return each field as a view of an array or tensor [W]."""
        return {
            name: words_W[begin : begin + math.prod(field.shape)].reshape(field.shape)
            for name, field, begin in self._places()
        }

    def clear(self, views: Mapping[str, NDArray[np.int64]]) -> None:
        """Make all rows blank."""
        for name, field in self._fields.items():
            views[name][...] = field.blank

    def _places(self) -> Iterator[tuple[str, Field, int]]:
        begin = 0
        for name, field in self._fields.items():
            yield name, field, begin
            begin += math.prod(field.shape)
