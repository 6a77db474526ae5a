"""What puts keys and values into slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ensemble.kv.slot_storage import Read
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class Prefill:
    """A history, the first positions of which are in a slot already."""

    history: History
    cached: int
    """Positions that need not be computed, BOS included; at least one of the history is left."""
    slot: int
    """What gets the keys and values of the others."""


@dataclass(frozen=True, slots=True)
class CachedSequence:
    """An encoded history."""

    slot: int
    length: int
    """Positions, BOS included."""


class Prefiller(Protocol[Read]):
    """Fills slots with histories."""

    padding: int
    """Padding positions computed so far."""

    def __call__(self, storage: Read, histories: Sequence[Prefill]) -> None:
        """Put keys, values and the last hidden state of every history into its slot."""
