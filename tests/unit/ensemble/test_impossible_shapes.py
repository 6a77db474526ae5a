"""NumPy's C function for new arrays, as an extension finds it after the change, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import ctypes
import numpy as np
from numpy.core import multiarray
from ensemble.nodes.impossible_shapes import NEW_FROM_DESCR, _new_array, tolerate_impossible_shapes

tolerate_impossible_shapes()
address = ctypes.pythonapi.PyCapsule_GetPointer
table = (ctypes.c_void_p * 300).from_address(address(multiarray._ARRAY_API, None))
new = _new_array(table[NEW_FROM_DESCR])
values = np.arange(6)
SHAPES = (2, 3), (1, 2**61), (1, 2**62 + 4), (2**31, 2**31, 8), (0, 5), (6,)
MORE = (0, 2**62), (2**62, 0, 4), (1, -1), ()
for shape in (*SHAPES, *MORE):
    dims = (ctypes.c_ssize_t * len(shape))(*shape)
    descr = np.dtype(np.int64)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(descr))
    made = new(id(np.ndarray), id(descr), len(shape), dims, None, values.ctypes.data, 0, None)
    array = ctypes.cast(made, ctypes.py_object).value
    print(array.shape, array.sum())
"""


def test_shapes_that_no_memory_holds_make_empty_arrays() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["(2, 3) 15", "(0,) 0", "(0,) 0", "(0,) 0", "(0, 5) 0", "(6,) 15"] + [
        "(0,) 0"
    ] * 3 + ["() 0"]
