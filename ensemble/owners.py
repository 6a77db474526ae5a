"""What stands for a user where keys and values are kept: none of these processes needs to know the id."""

import secrets
from hashlib import blake2b
from typing import Literal, get_args

OWNER_BYTES = 16
NAMED_BYTES = 8
Origin = Literal["stored", "sent"]
"""Whether a history came out of the store or with the request."""


def owner_digest(user_id: bytes, origin: Origin) -> bytes:
    """Return a digest of a user id. Whoever can guess the id can tell that it is the one."""
    return blake2b(user_id, digest_size=OWNER_BYTES, person=origin.encode()).digest()


def owner_once(user_id: bytes) -> bytes:
    """Return what stands for a user who sends a history, and is never the same again but in `named`."""
    return named(owner_digest(user_id, "sent")) + secrets.token_bytes(OWNER_BYTES - NAMED_BYTES)


def named(owner: bytes) -> bytes:
    """Return the part of an owner by which all that is a user's is found."""
    return owner[:NAMED_BYTES]


def owners_of(user_id: bytes) -> list[bytes]:
    """Return all that may stand for a user, as far as they are `named`."""
    return [owner_digest(user_id, origin) for origin in get_args(Origin)]
