"""The tensors of the serving graph, what they may hold, and how rows become padded batches and back.

Shapes: B users of one request, N events, A actions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING
from unipinrec.data.history import History

Arrays = Mapping[str, NDArray[Any]]
"""Tensors of one request by name, batch axis first; optional ones may be absent."""

SCORE_PADDING = float(np.finfo(np.float32).min)
"""Scores beyond the end of a shorter row: below every other, and a number, since JSON has no infinity."""

ADMIN_HEADER = "unipinrec-admin-key"
"""gRPC metadata or HTTP header with the key of restricted commands. It is a secret: no log may have it."""

REQUEST_ID, ADMIN_KEY, ASKED_OUTPUTS = "REQUEST_ID", "ADMIN_KEY", "ASKED_OUTPUTS"
"""What nodes find among a request's tensors without the caller's sending it so: its id for each user, BYTES
[B, 1], where it came with one, its admin key, BYTES [1], and the names of the outputs that are wanted, BYTES
[any]."""

CATALOGUE_VERSION = "CATALOGUE_VERSION"
"""Changes of items that the nodes of a request know of at least."""

COMMAND = "COMMAND"
"""Input of a node that is no step of an ensemble: what it is to do, as JSON."""
CHECK = b'{"check": true}'
"""A command that is refused unless the node works."""

WINDOW, LIFELONG = "EVENT", "LIFELONG"
"""Histories of a request, by what the names of their tensors begin with: the events that the trunk reads, and
all rows that the second ranker may read, impressions among them."""

LARGEST_WEIGHT = 1e30
"""Of an action: so that no score, a sum of weights times probabilities, is beyond a float32."""


class InvalidInputError(ValueError):
    """A request that the contract refuses; the message names the tensor, its value and the allowed range."""


class BundleMismatchError(RuntimeError):
    """Two nodes of the graph serve different bundles, as happens for a moment while one is replaced."""


def stack(rows: Sequence[NDArray[Any]], padding: float) -> NDArray[Any]:
    """Return rows that differ in their first axis as one array [B, longest, ...], padded at the end. At least
    one column wide: a server does not carry tensors without elements."""
    width = max(1, *(len(row) for row in rows))
    stacked = np.full((len(rows), width, *rows[0].shape[1:]), padding, rows[0].dtype)
    for index, row in enumerate(rows):
        stacked[index, : len(row)] = row
    return stacked


def stack_histories(histories: Sequence[History], kind: str = WINDOW) -> dict[str, NDArray[Any]]:
    """Return histories of one kind as the tensors that the graph carries."""
    return {
        f"{kind}_ITEMS": stack([history.item_row_N for history in histories], PADDING),
        f"{kind}_ACTIONS": stack([history.actions_N for history in histories], 0),
        f"{kind}_TIMESTAMPS": stack([history.timestamp_N for history in histories], 0),
        f"{kind}_SURFACES": stack([history.surface_N for history in histories], 0),
    }


def unstack_histories(arrays: Arrays, kind: str = WINDOW) -> list[History]:
    """Return the histories in tensors that `stack_histories` made."""
    histories = []
    for row, item_row_N in enumerate(arrays[f"{kind}_ITEMS"]):
        length = int((item_row_N != PADDING).sum())
        histories.append(
            History(
                item_row_N=item_row_N[:length],
                actions_N=arrays[f"{kind}_ACTIONS"][row, :length],
                timestamp_N=arrays[f"{kind}_TIMESTAMPS"][row, :length],
                surface_N=arrays[f"{kind}_SURFACES"][row, :length],
            )
        )
    return histories


def check_bundle(arrays: Arrays, bundle_id: str) -> None:
    """Refuse tensors that a node of another bundle made. Raises `BundleMismatchError` if at least one
    BUNDLE_ID differs from `bundle_id`."""
    for found in np.unique(arrays["BUNDLE_ID"].ravel()):
        if found.decode() != bundle_id:
            raise BundleMismatchError(
                f"BUNDLE_ID is {found.decode()}; this node serves {bundle_id}. Try again"
            )


def stamp_bundle(bundle_id: str, users: int) -> NDArray[np.object_]:
    """Return the bundle's id for every user of a request, BYTES [B, 1]."""
    return np.full((users, 1), bundle_id.encode(), dtype=np.object_)
