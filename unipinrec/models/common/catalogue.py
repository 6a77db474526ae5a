"""What the embedder knows of every item besides its learned tables.

Shapes: V items, H hash functions, X attributes of an item, F content width.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unipinrec.models.config import ItemConfig

PRIME = 2**31 - 1
MULTIPLIERS = (48_271, 69_621, 16_807, 39_373, 742_938, 950_706, 630_360, 1_343_714)
"""One for each hash function."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Hashed ids, attributes and content of all items, and which of them training never saw."""

    id_slot_VH: Tensor
    """Rows of the id table, int64; every hash function has its own range."""
    attribute_VX: Tensor
    """Attribute numbers from 1 on, int64, padded with 0."""
    content_VF: Tensor
    cold_V: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of_rows(cls, config: ItemConfig) -> Self:
        """Return items of which nothing is known but their row."""
        items = config.num_items
        return cls(
            id_slots(torch.arange(items), config),
            torch.zeros(items, config.max_attributes, dtype=torch.long),
            torch.zeros(items, config.content_dim),
            torch.zeros(items, dtype=torch.bool),
        )


def id_slots(item_id_V: Tensor, config: ItemConfig) -> Tensor:
    """Return rows of the id table for external ids, [V, H] (PinRec §2.3).

    A single table with a row for every item needs no hashing: item v has row v.
    """
    rows = config.id_rows or config.num_items
    if config.id_hashes == 1 and rows == config.num_items:
        return torch.arange(len(item_id_V)).unsqueeze(1)
    columns = []
    for index in range(config.id_hashes):
        mixed_V = (item_id_V % PRIME + 1) * MULTIPLIERS[index] % PRIME
        mixed_V = (mixed_V ^ (mixed_V >> 13)) * MULTIPLIERS[(index + 3) % len(MULTIPLIERS)] % PRIME
        columns.append(mixed_V % rows + index * rows)
    return torch.stack(columns, dim=1)
