"""What all functions of one process on a device share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ensemble.executors.cuda.calls import Launches
from ensemble.executors.cuda.item_table import ItemTable
from unipinrec.models.common.slotted import Compile
from unipinrec.models.unified.served import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Model and item vectors on the device, and how functions are made fast there."""

    device: torch.device
    model: ServedModel
    """In the precision that it serves in."""
    items: ItemTable
    launches: Launches
    compiled: Compile
    batches: Sequence[int]
    """Rows that batches are padded to; the last is the most that a batch has."""
