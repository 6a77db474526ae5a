"""What a KV pool needs of its memory, wherever that is.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width, C hidden width.
A slot is [L, 2, H, T, D]; beside it stands the hidden state after its last position, [C].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from torch import Tensor
from typing_extensions import TypeVar

from ensemble.settings import Precision
from unipinrec.models.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """Sizes of a pool's memory; both sides of a mapping must agree on all of them."""

    slots: int
    shape: tuple[int, int, int, int, int]
    """[L, 2, H, T, D] of one slot."""
    width: int
    """C of the hidden states."""
    precision: Precision | Literal["float64"] = "float32"
    """float64 is for models that compute in it."""

    @classmethod
    def of_model(cls, config: ModelConfig, slots: int, precision: Precision) -> Self:
        """Return the layout of a model's pool."""
        shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
        return cls(slots=slots, shape=shape, width=config.width, precision=precision)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Return the layout among the fields that a storage described."""
        return cls(
            slots=fields["slots"],
            shape=tuple(fields["shape"]),
            width=fields["width"],
            precision=fields["precision"],
        )


class SlotStorage(Protocol):
    """The memory of one pool. Spare slots, numbered behind the others, are the calling process's own."""

    layout: SlotLayout

    @property
    def bytes(self) -> int:
        """Size of the whole memory."""

    def describe(self) -> dict[str, Any]:
        """Return what another process needs to map the same memory, as JSON has it."""

    def hidden(self, slot: int) -> Tensor:
        """Return the hidden state [C] beside a slot, in place."""

    def copy(self, slot: int, source: "SlotStorage", source_slot: int, length: int) -> None:
        """Take the first `length` positions and the hidden state of a slot of equal layout. Raises
        `TypeError` if the source is in another kind of memory."""

    def clear(self, slot: int) -> None:
        """Overwrite a slot and the hidden state beside it with zeros."""

    def synchronize(self) -> None:
        """Return when all that was launched on the device is done, and so visible to other processes."""


Storage = TypeVar("Storage", bound=SlotStorage, default=Any)
"""The storage of one kind of memory, which whoever computes over it needs to know."""
Read = TypeVar("Read", bound=SlotStorage, default=Any, contravariant=True)
"""The same, of what only takes storages."""


class PoolMemory(Protocol[Storage]):
    """Where pools get their memory from, and map that of others."""

    def create(self, base: Path, layout: SlotLayout) -> Storage:
        """Return zeroed memory for a pool whose files begin with the path `base`. Raises `MemoryError` if too
        little is free."""

    def open(self, folder: Path, fields: Mapping[str, Any]) -> Storage:
        """Return the memory that another process described, its files in `folder`. Raises `ValueError` if it
        is on another kind of device, and `FileNotFoundError` if it is gone."""

    def close(self, storage: Storage) -> None:
        """Keep nothing of a storage that was opened and is not read from here on."""
