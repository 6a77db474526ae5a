"""What sealed tensors of `history` hold: bytes whose number tells little of how long a history is.

Shapes: N events, X item rows.
"""

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np

from ensemble.arrays import PADDING, Int64s
from ensemble.kv.event_chain import LEAST_REUSED
from ensemble.owners import OWNER_BYTES, owner_digest, owner_once
from unipinrec.data.history import History

EVENT = np.dtype([("item_row", "<i4"), ("actions", "<u4"), ("timestamp", "<i8"), ("surface", "<i4")])
"""20 bytes an event: a model has at most 32 actions."""
CONTEXT = struct.Struct(f"<qqq{OWNER_BYTES}s")
"""Request time, surface, number of events, owner."""
LEAST_BYTES = 4096
"""Contents are filled up to this size, and longer ones to the next power of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedHistory:
    """A history as the nodes behind `history` read it, and for when and where it is read."""

    history: History
    request_time: int
    surface: int
    owner: bytes
    """Whose keys and values it may share: docs/kv-pool.md."""

    def to_bytes(self) -> bytes:
        """Return the bytes to seal."""
        events = np.empty(len(self.history), EVENT)
        events["item_row"] = self.history.item_row_N
        events["actions"] = self.history.actions_N
        events["timestamp"] = self.history.timestamp_N
        events["surface"] = self.history.surface_N
        context = CONTEXT.pack(self.request_time, self.surface, len(events), self.owner)
        content = context + events.tobytes()
        return content.ljust(_filled(len(content)), b"\0")

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Return what `to_bytes` was made of."""
        request_time, surface, length, owner = CONTEXT.unpack_from(content)
        events = np.frombuffer(content, EVENT, length, CONTEXT.size)
        history = History(
            item_row_N=events["item_row"].astype(np.int64),
            actions_N=events["actions"].astype(np.int64),
            timestamp_N=events["timestamp"].astype(np.int64),
            surface_N=events["surface"].astype(np.int64),
        )
        return cls(history=history, request_time=request_time, surface=surface, owner=owner)


def owner_of(user_id: bytes, *, stored: bool, events: int) -> bytes:
    """Return what stands for a user whose history is stored, or who sends one of `events` under this id.

    What is short enough to be guessed is nobody's: an answer that says that a prefix was found would confirm
    the guess.
    """
    if not stored and events + 1 < LEAST_REUSED:
        return owner_once(user_id)
    return owner_digest(user_id, "stored" if stored else "sent")


def left_out_to_bytes(catalogue_version: int, item_row_X: Int64s) -> bytes:
    """Return the version of the catalogue and item rows as bytes to seal."""
    return rows_to_bytes(np.append(catalogue_version, item_row_X))


def left_out_from_bytes(content: bytes) -> tuple[int, Int64s]:
    """Return what `left_out_to_bytes` made bytes of."""
    numbers = rows_from_bytes(content)
    return int(numbers[0]), numbers[1:]


def rows_to_bytes(item_row_X: Int64s) -> bytes:
    """Return item rows as bytes to seal."""
    size = _filled(4 * len(item_row_X)) // 4
    padded = np.full(size, PADDING, "<i4")
    padded[: len(item_row_X)] = item_row_X
    return padded.tobytes()


def rows_from_bytes(content: bytes) -> Int64s:
    """Return the item rows of which `rows_to_bytes` made bytes."""
    padded = np.frombuffer(content, "<i4").astype(np.int64)
    kept: Int64s = padded[padded != PADDING]
    return kept


def _filled(size: int) -> int:
    return max(LEAST_BYTES, 1 << (size - 1).bit_length())
