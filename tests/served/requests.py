"""Requests that served tests share, made from the exported dataset or drawn at random."""

import numpy as np
from unipinrec_client import Event, RecommendRequest

from tests.conftest import ACTIONS, ITEMS, NOW, SURFACES, Exported
from unipinrec.models.unified.offline import OfflineRequest


def stored(exported: Exported, user: int, num_results: int = 20) -> RecommendRequest:
    """A request that relies on the stored history."""
    return RecommendRequest(
        user_id=str(exported.dataset.user_ids_U[user]),
        request_time=NOW,
        surface=user % len(SURFACES),
        num_results=num_results,
    )


def offline(exported: Exported, user: int) -> OfflineRequest:
    """The same request for offline PyTorch."""
    history = exported.dataset.history(user)
    return OfflineRequest(history=history, request_time=NOW, surface=user % len(SURFACES))


def events_of(exported: Exported, user: int) -> list[Event]:
    """A stored history, as a caller would send it."""
    history = exported.dataset.history(user)
    columns = (
        exported.dataset.item_ids_V[history.item_row_N],
        history.actions_N,
        history.timestamp_N,
        history.surface_N,
    )
    return [
        Event(item_id=item, actions=actions, timestamp=timestamp, surface=surface)
        for item, actions, timestamp, surface in zip(*(column.tolist() for column in columns), strict=True)
    ]


def inline(seed: int, length: int) -> RecommendRequest:
    """A random user who sends a history of `length` events, some of unknown items."""
    draw = np.random.default_rng(seed)
    item = 1000 + draw.integers(3 * ITEMS, size=length)
    columns = (
        item,
        draw.integers(2 ** len(ACTIONS), size=length),
        1_700_000_000 + draw.integers(9_000, size=length).cumsum(),
        draw.integers(len(SURFACES), size=length),
    )
    return RecommendRequest(
        user_id=f"inline-{seed}",
        history=[
            Event(item_id=item, actions=actions, timestamp=timestamp, surface=surface)
            for item, actions, timestamp, surface in zip(*(c.tolist() for c in columns), strict=True)
        ],
        request_time=NOW,
        num_results=int(draw.integers(1, 65)),
        exclude_item_ids=draw.integers(1000, 1000 + 3 * ITEMS, size=draw.integers(4)).tolist(),
    )
