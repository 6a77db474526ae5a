"""What tells a proxy which user a request is for, so that it can keep a user on one server."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from unipinrec_client.types import UserId
from unipinrec_client.values import user_id_bytes

ROUTING_HEADER = "unipinrec-user"
"""HTTP header and gRPC metadata key."""

DIGEST_CHARACTERS = 16


def routing_key(user_id: UserId) -> str:
    """Return the first 16 hex characters of the SHA-256 of a user id as it is sent.

    Proxies log headers: the digest keeps the id itself out of their logs. It hides nothing from somebody who
    can list all ids and hash them. Raises `ValueError` as `user_id_bytes` does.
    """
    return hashlib.sha256(user_id_bytes(user_id)).hexdigest()[:DIGEST_CHARACTERS]


def with_routing(headers: Mapping[str, str], user_ids_B1: npt.NDArray[Any] | None) -> dict[str, str]:
    """Return the headers and the first user's routing key, unless there is no user or the headers set one
    themselves."""
    if user_ids_B1 is None or any(name.lower() == ROUTING_HEADER for name in headers):
        return dict(headers)
    return {**headers, ROUTING_HEADER: routing_key(user_ids_B1[0, 0])}
