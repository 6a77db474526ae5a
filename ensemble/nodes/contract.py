"""The tensors of the serving graph, what they may hold, and how rows become padded batches and back.

Shapes: B users of one request, N events, A actions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

ADMISSION = "ADMISSION"
"""The ticket of a request that the edge has let in, INT64 [B, 3]: `ensemble/nodes/in_flight.py`."""

CANARY = "canary"
"""Id of the requests, and name of the user without history, by which the launcher tries whether all works."""

COMMAND = "COMMAND"
"""Input of a node that is no step of an ensemble: what it is to do, as JSON."""
CHECK = b'{"check": true}'
"""A command that is refused unless the node works."""


class InvalidInputError(ValueError):
    """A request that the contract refuses; the message names the tensor, its value and the allowed range."""


class BundleMismatchError(RuntimeError):
    """Two nodes of the graph serve different bundles, as happens for a moment while one is replaced."""


class RefusedError(RuntimeError):
    """A request that could not be answered before its deadline; the message says when to come again."""


class ExpiredError(RuntimeError):
    """A request whose deadline has passed on its way through the graph."""


def stack(rows: Sequence[NDArray[Any]], padding: float) -> NDArray[Any]:
    """Return rows that differ in their first axis as one array [B, longest, ...], padded at the end. At least
    one column wide: a server does not carry tensors without elements."""
    width = max(1, *(len(row) for row in rows))
    stacked = np.full((len(rows), width, *rows[0].shape[1:]), padding, rows[0].dtype)
    for index, row in enumerate(rows):
        stacked[index, : len(row)] = row
    return stacked


def stamp_bundle(bundle_id: str, users: int) -> NDArray[np.object_]:
    """Return the bundle's id for every user of a request, BYTES [B, 1]."""
    return np.full((users, 1), bundle_id.encode(), dtype=np.object_)
