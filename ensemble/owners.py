"""What stands for a user where keys and values are kept: none of these processes needs to know the id."""

from hashlib import blake2b
from typing import Literal, get_args

OWNER_BYTES = 16
Origin = Literal["stored", "sent"]
"""Whether a history came out of the store or with the request."""


def owner_digest(user_id: bytes, origin: Origin) -> bytes:
    """Return a digest of a user id. Whoever can guess the id can tell that it is the one."""
    return blake2b(user_id, digest_size=OWNER_BYTES, person=origin.encode()).digest()


def owners_of(user_id: bytes) -> list[bytes]:
    """Return all that may stand for a user."""
    return [owner_digest(user_id, origin) for origin in get_args(Origin)]
