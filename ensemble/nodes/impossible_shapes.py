"""Keeps a shape that no memory holds from ending a node's process.

The stub of Triton's Python backend makes an array of every tensor before it calls a node, and nobody can
catch what NumPy raises then: the process ends. Triton 2.51 lets such a shape through where its size in bytes,
modulo 2^64, is that of the content, so that a request of 100 bytes would do. Here NumPy makes an empty array
instead, where the stub asks for one, and whoever parses the request finds that the tensor has another shape.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any

from numpy.core import multiarray

LARGEST = 2**40
"""Elements that no tensor has."""

TABLE = "_ARRAY_API"
ENTRIES = 300
"""Of NumPy's table of C functions, of which the stub knows no more."""
NEW_FROM_DESCR = 94
"""The place of PyArray_NewFromDescr, in every version of NumPy that has this table."""

_new_array = ctypes.PYFUNCTYPE(
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_ssize_t),
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
)
_kept: list[Any] = []
"""What C code holds pointers to, for the life of the process."""


def tolerate_impossible_shapes() -> None:
    """Let whoever looks up NumPy's C functions from here on get empty arrays for shapes of more elements than
    `LARGEST`. The stub does so with its first tensor, after the node has been made."""
    address, make = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table = (ctypes.c_void_p * ENTRIES).from_address(address(vars(multiarray)[TABLE], None))
    changed = (ctypes.c_void_p * ENTRIES)(*table)
    replacement = _new_array(_empty_if_impossible(_new_array(table[NEW_FROM_DESCR] or 0)))
    changed[NEW_FROM_DESCR] = ctypes.cast(replacement, ctypes.c_void_p)
    _kept.extend((changed, replacement))
    setattr(multiarray, TABLE, make(ctypes.addressof(changed), None, None))


def _empty_if_impossible(original: Callable[..., Any]) -> Callable[..., Any]:
    nothing, one = (ctypes.c_ssize_t * 1)(0), 1

    def new_from_descr(
        kind: int, descr: int, axes: int, shape: Any, strides: int, data: int, flags: int, like: int
    ) -> Any:
        # NumPy looks at the product of the others where one is 0.
        lengths = [length or 1 for length in shape[:axes]]
        if min(lengths, default=1) < 0 or math.prod(lengths) > LARGEST:
            return original(kind, descr, one, nothing, None, data, flags, like)
        return original(kind, descr, axes, shape, strides, data, flags, like)

    return new_from_descr
