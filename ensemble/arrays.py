"""The arrays that nodes compute with, and what pads them."""

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.history import UNKNOWN_ROW

Int64s = NDArray[np.int64]
Floats = NDArray[np.float32]

PADDING = UNKNOWN_ROW
"""Item ids and item rows at or beyond the end of a shorter row."""
