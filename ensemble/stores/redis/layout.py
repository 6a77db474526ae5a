"""What Redis holds of a user's events, and the names of all keys.

A user with few events is one string: a head, and the events of the latest chunk, in dtype `IDENTIFIED`. Full
chunks are in a hash beside it, by their places. All that histories are stored under begins with the number
of a generation, of which one counts: so many users are replaced in one step.
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

import numpy as np

from ensemble.stores.history_store import IDENTIFIED, Events, InvalidEventsError, check_events
from ensemble.stores.user_chunks import CHUNK_EVENTS

PREFIX = b"unipinrec:1:"
"""Of all keys, with the number of the layout."""
GENERATION = PREFIX + b"generation"
"""Number of the generation that counts; 0 where there is none."""
GENERATIONS = PREFIX + b"generations"
"""Set of all that were begun and may have left keys."""
LATEST_GENERATION = PREFIX + b"latest-generation"
REPLACING = PREFIX + b"replacing"
"""Who makes a generation, as long as that lasts."""
NOTICES = PREFIX + b"deleted"
"""Sorted set: notices of deleted users, by number."""

FIRST_GENERATION = b"0"

MAGIC = b"UPH1"
HEAD = Struct("<4s8sII")
"""Magic and version, a token that each write draws, the first place, and the one behind the last."""
TOKEN_BYTES = 8
MARK_BYTES = len(MAGIC) + TOKEN_BYTES
"""Magic and token: while they are the same, so is all else."""
CHUNK_BYTES = CHUNK_EVENTS * IDENTIFIED.itemsize


class LayoutError(ValueError):
    """A value that no store has written; the message says what is wrong with it."""


class Head(NamedTuple):
    """What stands before the events of the latest chunk."""

    magic: bytes = MAGIC
    token: bytes = b""
    first: int = 0
    end: int = 0


def users_key(generation: bytes) -> bytes:
    """Return the key of the sorted set of all user ids, whose order is that of their bytes."""
    return PREFIX + generation + b":users"


def user_key(generation: bytes, user_id: bytes) -> bytes:
    """Return the key of a user's head and latest chunk."""
    return PREFIX + generation + b":u:" + user_id


def chunks_key(generation: bytes, user_id: bytes) -> bytes:
    """Return the key of a user's full chunks."""
    return PREFIX + generation + b":c:" + user_id


def opened(value: bytes) -> tuple[Head, Events]:
    """Return the head and the events of the latest chunk. Raises `LayoutError`."""
    if len(value) < HEAD.size or value[: len(MAGIC)] != MAGIC:
        raise LayoutError(f"begins with {value[: len(MAGIC)]!r}; allowed: {MAGIC!r} and what follows it")
    head = Head(*HEAD.unpack_from(value))
    count, rest = divmod(len(value) - HEAD.size, IDENTIFIED.itemsize)
    if rest or not 0 < count <= CHUNK_EVENTS or head.first >= head.end:
        raise LayoutError(f"has {len(value)} bytes and places {head.first} to {head.end - 1}")
    return head, np.frombuffer(value, IDENTIFIED, offset=HEAD.size)


def count_of(value: bytes) -> int:
    """Return how many events a user has. Raises `LayoutError`."""
    head, latest = opened(value)
    return (head.end - head.first - 1) * CHUNK_EVENTS + len(latest)


def full_chunks(head: Head, found: Mapping[bytes, bytes]) -> dict[int, Events]:
    """Return the full chunks by their places. Raises `LayoutError` if one is missing or not full."""
    chunks = {}
    for place in range(head.first, head.end - 1):
        value = found.get(b"%d" % place, b"")
        if len(value) != CHUNK_BYTES:
            raise LayoutError(f"has {len(value)} bytes in chunk {place}; allowed: {CHUNK_BYTES}")
        chunks[place] = np.frombuffer(value, IDENTIFIED)
    return chunks


def checked(user_id: bytes, events: Events) -> Events:
    """Return the events, in order of time and in range. Raises `LayoutError`."""
    try:
        return check_events(user_id, events)
    except InvalidEventsError as error:
        raise LayoutError(str(error)) from None
