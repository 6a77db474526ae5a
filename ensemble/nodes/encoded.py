"""What KV_HANDLE holds: where an encoded history lies, and the hidden state after its last event.

The state goes with the request: another one may continue the slot before ranking reads it.

Shapes: C hidden width.
"""

import numpy as np

from ensemble.arrays import Floats
from ensemble.kv.pool import Handle

HANDLE_BYTES = 8 * len(Handle._fields)


def encoded_to_bytes(handle: Handle, hidden_C: Floats) -> bytes:
    """Return the bytes to seal."""
    return handle.to_array().tobytes() + hidden_C.astype(np.float32, copy=False).tobytes()


def encoded_from_bytes(content: bytes) -> tuple[Handle, Floats]:
    """Return what `encoded_to_bytes` was given."""
    handle = Handle.from_array(np.frombuffer(content[:HANDLE_BYTES], np.int64))
    # A copy: tensors share the memory of arrays that may be written to.
    return handle, np.frombuffer(content[HANDLE_BYTES:], np.float32).copy()
