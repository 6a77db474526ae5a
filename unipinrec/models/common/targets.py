"""What each position of a history should retrieve.

Shapes: B examples, T positions (BOS first), O time offsets, R targets that a position may hit, P chosen
positions.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unipinrec.data.blended import BlendedBatch
from unipinrec.models.config import RetrievalTraining

FAR_FUTURE = 2**62


@dataclass(frozen=True, slots=True)
class Targets:
    """Positions with a target, one row for each of them and each time offset."""

    position_P: Tensor
    """Index into the flattened [B x T] positions."""
    user_P: Tensor
    timestamp_P: Tensor
    """Unix seconds of the request: when the next item was acted on, whatever the offset."""
    surface_P: Tensor
    offset_P: Tensor
    item_PR: Tensor
    """Item rows of the target and of later items of its session; the first is the target."""
    actions_P: Tensor
    """Bitmask of the target's actions."""
    counted_PR: Tensor

    def rows(self, chosen_P: Tensor) -> Self:
        """Return some of the rows, which a boolean tensor marks."""
        return type(self)(*(getattr(self, name)[chosen_P] for name in self.__slots__))


def make_targets(
    batch: BlendedBatch, positive_mask: int, time_offsets_s: tuple[int, ...], config: RetrievalTraining
) -> Targets:
    """Find the target of every position and time offset (PinRec §2.5, §2.6).

    A position's request happens when its next item was acted on. The target at offset d is the first item
    with a positive action from d seconds after that on. Where none follows, there is no target.
    """
    positive_BT = (batch.target_item_BT >= 0) & (batch.target_actions_BT & positive_mask != 0)
    places = positive_BT.size(1)
    place_T = torch.arange(places, device=positive_BT.device)
    # The first positive place at or after every place; `places` where none follows.
    next_BT = torch.where(positive_BT, place_T, places).flip(1).cummin(1).values.flip(1)
    next_BT = torch.cat([next_BT, torch.full_like(next_BT[:, :1], places)], dim=1)
    real_BT = place_T <= batch.length_B.unsqueeze(1)
    time_BT = torch.where(real_BT, batch.target_timestamp_BT, FAR_FUTURE)
    parts: list[Targets] = []
    for number, offset in enumerate(time_offsets_s):
        first_BT = (
            place_T.expand_as(time_BT) if offset == 0 else torch.searchsorted(time_BT, time_BT + offset)
        )
        found_BT = next_BT.gather(1, first_BT)
        # Now: the event right after the position, or nothing when that is no positive one.
        has_BT = real_BT & (positive_BT if offset == 0 else found_BT < places)
        parts.append(_rows(batch, has_BT, found_BT, number, next_BT, config))
    return Targets(*(torch.cat([getattr(part, name) for part in parts]) for name in Targets.__slots__))


def _rows(
    batch: BlendedBatch,
    has_BT: Tensor,
    found_BT: Tensor,
    offset: int,
    next_BT: Tensor,
    config: RetrievalTraining,
) -> Targets:
    example_P, position_P = has_BT.nonzero(as_tuple=True)
    place_P, last = found_BT[has_BT], has_BT.size(1) - 1
    first_P = place_P
    items, counted = [batch.target_item_BT[example_P, place_P]], [torch.ones_like(place_P, dtype=torch.bool)]
    for _ in range(1, config.relaxation_targets):
        later_P = next_BT[example_P, place_P + 1]
        kept_P = later_P.clamp(max=last)
        gap_P = batch.target_timestamp_BT[example_P, kept_P] - batch.target_timestamp_BT[example_P, place_P]
        counted.append(counted[-1] & (later_P <= last) & (gap_P <= config.session_gap_s))
        place_P = torch.where(counted[-1], kept_P, place_P)
        items.append(batch.target_item_BT[example_P, place_P])
    return Targets(
        position_P=example_P * has_BT.size(1) + position_P,
        user_P=batch.user_B[example_P],
        timestamp_P=batch.target_timestamp_BT[has_BT],
        surface_P=batch.target_surface_BT[has_BT],
        offset_P=torch.full_like(place_P, offset),
        item_PR=torch.stack(items, dim=1),
        actions_P=batch.target_actions_BT[example_P, first_P],
        counted_PR=torch.stack(counted, dim=1),
    )
