"""The vectors of all items on a device, in the precision that its memory allows.

Shapes: V items, E item width, ... any axes of a lookup.
"""

from typing import Literal

import torch
from torch import Tensor

from ensemble.arrays import Floats

ItemPrecision = Literal["float32", "bfloat16", "int8"]
ROWS = 65_536
"""Items converted at a time, so that a large catalogue never stands twice in memory."""


class ItemTable:
    """Looks vectors up by item row, so that rows alone cross to the device."""

    def __init__(self, vector_VE: Floats, precision: ItemPrecision, device: torch.device) -> None:
        """`int8` has one scale for each item, its largest component (PinRec §2.8 ships INT8 too)."""
        dtype = getattr(torch, precision)
        self._value_VE = torch.empty(vector_VE.shape, dtype=dtype, device=device)
        self._scale_V: Tensor | None = None
        if precision == "int8":
            self._scale_V = torch.empty(len(vector_VE), device=device)
        for first in range(0, len(vector_VE), ROWS):
            # A copy: a mapped file is read-only, which tensors cannot be.
            part = torch.tensor(vector_VE[first : first + ROWS]).to(device)
            if self._scale_V is not None:
                scale = part.abs().amax(-1).clamp(min=1e-30) / 127
                self._scale_V[first : first + ROWS] = scale
                part = (part / scale.unsqueeze(-1)).round()
            self._value_VE[first : first + ROWS] = part.to(dtype)

    @property
    def bytes(self) -> int:
        """Device memory of the table."""
        scales = 0 if self._scale_V is None else self._scale_V.nbytes
        return self._value_VE.nbytes + scales

    def __call__(self, row: Tensor) -> Tensor:
        """Return the vectors [..., E] of item rows [...], in float32."""
        vector = self._value_VE[row].float()
        return vector if self._scale_V is None else vector * self._scale_V[row].unsqueeze(-1)
