"""Items that callers add, update and remove, and the tensors of the model `update_items`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unipinrec_client.errors import RecommendError
from unipinrec_client.values import checked_integers, checked_weights

UPDATE_ITEMS = "update_items"
"""The model that takes items, whichever is asked for recommendations."""
MOST_ITEMS = 256
"""Items that the server takes at a time."""
ITEM_TYPES = {
    "ITEM_ID": "INT64",
    "OPERATION": "BYTES",
    "TITLE": "BYTES",
    "ATTRIBUTES": "INT64",
    "CONTENT": "FP32",
}
"""Triton's type of every input."""
ITEM_RANKS = {"OUTCOME": 2, "VERSION": 2, "UNKNOWN_ATTRIBUTES": 2}
"""Number of dimensions of every output, the batch included."""

# B items, X attributes of the item with the most, F content width

_PADDING = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """All that is known of an item: what an update leaves out is gone."""

    item_id: int
    """External item id, 0 or more."""
    title: str = ""
    attributes: Iterable[int] = ()
    """Ids of categories, brands, tags, as the dataset of the bundle has them; in any order."""
    content: Sequence[float] = ()
    """A vector as wide as those of that dataset; empty: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemOutcome:
    """What became of an item. It is on the server's disk, and what is recommended from now on knows it."""

    item_id: int
    outcome: str
    """`added`, `updated`, `unchanged`, `removed`, or `absent` for one that was not there to be removed."""
    version: int
    """Number of the item's latest change, which ascends over all items."""
    unknown_attributes: int = 0
    """Attributes that the bundle was not trained with, and that count for nothing."""
    request_id: str = field(default="", compare=False)
    """What the server's logs and traces call the request."""


def encode_items(items: Iterable[Item]) -> dict[str, npt.NDArray[Any]]:
    """Return the input tensors of one request that adds or updates items. Raises `ValueError` for values that
    have no encoding: no items, values of another type, content vectors of several widths."""
    found = list(items)
    for place, item in enumerate(found):
        if not isinstance(item, Item):
            raise ValueError(f"items[{place}] is {item!r:.100}; allowed: Item")
    arrays = _operations(b"put", [item.item_id for item in found])
    arrays["TITLE"] = np.array([[_title(item.title)] for item in found], np.object_)
    attributes = [checked_integers("attributes", item.attributes) for item in found]
    if any(attributes):
        width = max(map(len, attributes))
        rows = [row + [_PADDING] * (width - len(row)) for row in attributes]
        arrays["ATTRIBUTES"] = np.array(rows, np.int64)
    content = [checked_weights("content", item.content) for item in found]
    widths = sorted({len(row) for row in content} - {0})
    if len(widths) > 1:
        raise ValueError(f"content has lengths {widths}; allowed: one for all items")
    if widths:
        arrays["CONTENT"] = np.array([row or [0.0] * widths[0] for row in content], np.float32)
    return arrays


def encode_removals(item_ids: Iterable[int]) -> dict[str, npt.NDArray[Any]]:
    """Return the input tensors of one request that removes items. Raises `ValueError` for none, and for ids
    that have no 64-bit form."""
    return _operations(b"remove", item_ids)


def decode_items(
    arrays: Mapping[str, npt.NDArray[Any] | None], item_ids: Sequence[int], request_id: str = ""
) -> tuple[ItemOutcome, ...]:
    """Return what became of each item, in their order. `arrays` holds OUTCOME, VERSION and UNKNOWN_ATTRIBUTES
    [B,1]. Raises `RecommendError` if one is missing or of another shape."""
    columns = []
    for name in ITEM_RANKS:
        array = arrays.get(name)
        if array is None or array.shape != (len(item_ids), 1):
            shape = None if array is None else array.shape
            raise RecommendError(f"{name} has shape {shape}; allowed: {(len(item_ids), 1)}")
        columns.append(array[:, 0].tolist())
    return tuple(
        ItemOutcome(
            item_id=item_id,
            outcome=outcome.decode() if isinstance(outcome, bytes) else str(outcome),
            version=version,
            unknown_attributes=unknown,
            request_id=request_id,
        )
        for item_id, outcome, version, unknown in zip(item_ids, *columns, strict=True)
    )


def _operations(operation: bytes, item_ids: Iterable[int]) -> dict[str, npt.NDArray[Any]]:
    ids = checked_integers("item_id", item_ids)
    if not ids:
        raise ValueError("items is empty; allowed: 1 and more")
    return {
        "ITEM_ID": np.array(ids, np.int64)[:, None],
        "OPERATION": np.full((len(ids), 1), operation, np.object_),
    }


def _title(title: Any) -> bytes:
    try:
        encoded: bytes = title.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ValueError(f"title is {title!r:.100}; allowed: text with a UTF-8 form") from None
    return encoded
