"""What keeps inner nodes to themselves: tensors between nodes that only this server's nodes can make.

Triton lets any caller call any node, and a node cannot tell such a call from an ensemble's. So what may not
be seen is encrypted between nodes, and what may not be made up is authenticated, with AES-GCM under a key
that the launcher gives the server's processes. All that is sealed for one request carries the same token.
"""

import hashlib
import secrets
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from ensemble.nodes.contract import ADMISSION, Arrays, BundleMismatchError, InvalidInputError
from ensemble.settings import ServingSettings

SEALED_HISTORY, SEALED_LIFELONG, SEALED_LEFT_OUT, POLICY_TICKET, KV_HANDLE = (
    "SEALED_HISTORY",
    "SEALED_LIFELONG",
    "SEALED_LEFT_OUT",
    "POLICY_TICKET",
    "KV_HANDLE",
)
"""Tensors that hide what they hold, BYTES [B, 1]."""

QUERY_SEAL, CANDIDATE_SEAL, PROBS_SEAL = "QUERY_SEAL", "CANDIDATE_SEAL", "PROBS_SEAL"
"""Tensors that vouch for others, which anybody may read, BYTES [B, 1]."""

VOUCHED = {
    QUERY_SEAL: ("QUERY_EMBEDDINGS", "QUERY_BUDGETS", "QUERY_ORIGINS"),
    CANDIDATE_SEAL: ("CANDIDATE_ITEMS",),
    PROBS_SEAL: ("CANDIDATE_PROBS",),
}
"""The tensors that one vouches for."""

NONCE_BYTES = 16
TOKEN = struct.Struct("<q16s")
"""When history made it (ns on the monotonic clock of the machine), and what no other request has."""
HEADER = struct.Struct(f"<{NONCE_BYTES}sB")
"""The nonce, and the length of the bundle's id behind it."""
# Each message has a key of its own, so that none is used with this nonce twice.
ONE_NONCE = bytes(12)


class StaleSealError(RuntimeError):
    """A request that was checked longer ago than inner nodes take."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed of one user's part of a request."""

    token: bytes
    content: Mapping[str, bytes]
    """By the name of the tensor; empty for those that vouch for others."""


class Seal:
    """Seals and opens tensors for the nodes that serve one bundle on one server."""

    def __init__(self, settings: ServingSettings, bundle_id: str) -> None:
        """Raises `ValueError` if `settings` have no key."""
        if settings.seal_key is None:
            raise ValueError(
                "UNIPINREC_SEAL_KEY is not set; allowed: 64 hexadecimal digits, the same for all nodes of a "
                "server. `unipinrec serve` makes one"
            )
        self._key = bytes.fromhex(settings.seal_key.get_secret_value())
        self._bundle = bundle_id.encode()
        self._lifetime_ns = settings.seal_lifetime_s * 1_000_000_000

    def tokens(self, users: int) -> list[bytes]:
        """Return a token for each user's part of a request."""
        return [TOKEN.pack(time.monotonic_ns(), secrets.token_bytes(16)) for _ in range(users)]

    def close(
        self,
        name: str,
        tokens: Sequence[bytes],
        contents: Sequence[bytes] | None = None,
        beside: Arrays | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return the tensor `name`, which holds a content for each token, or vouches for some of `beside`."""
        contents = contents if contents is not None else [b""] * len(tokens)
        sealed = [
            [self._close(name, token + content, _vouched(name, beside or {}, user))]
            for user, (token, content) in enumerate(zip(tokens, contents, strict=True))
        ]
        return {name: np.array(sealed, np.object_)}

    def open(self, arrays: Arrays, *names: str) -> list[Opened]:
        """Return what tensors hold, and ADMISSION where it is there, for each user.

        Raises:
            InvalidInputError: nodes of this server did not make all of them, and what they vouch for, for one
                request.
            BundleMismatchError: nodes of another bundle made them.
            StaleSealError: that was too long ago.
        """
        if ADMISSION in arrays:
            names = (*names, ADMISSION)
        rows = []
        for user in range(len(arrays[names[0]])):
            opened = {name: self._open(name, arrays, user) for name in names}
            tokens = {plain[: TOKEN.size] for plain in opened.values()}
            if len(tokens) > 1:
                raise _refused(" and ".join(names))
            (token,) = tokens
            self._check_age(token)
            rows.append(Opened(token, {name: plain[TOKEN.size :] for name, plain in opened.items()}))
        return rows

    def _close(self, name: str, plain: bytes, vouched: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        header = HEADER.pack(nonce, len(self._bundle)) + self._bundle
        return header + self._cipher(name, nonce).encrypt(ONE_NONCE, plain, header + vouched)

    def _open(self, name: str, arrays: Arrays, user: int) -> bytes:
        sealed = bytes(arrays[name][user, 0])
        if len(sealed) < HEADER.size:
            raise _refused(name)
        nonce, length = HEADER.unpack_from(sealed)
        end = HEADER.size + length
        associated = sealed[:end] + _vouched(name, arrays, user)
        try:
            plain = self._cipher(name, nonce).decrypt(ONE_NONCE, sealed[end:], associated)
        except InvalidTag:
            raise _refused(name) from None
        bundle = sealed[HEADER.size : end]
        if bundle != self._bundle:
            raise BundleMismatchError(
                f"{name} is of bundle {bundle.decode()}; this node serves {self._bundle.decode()}. Try again"
            )
        return plain

    def _cipher(self, name: str, nonce: bytes) -> AESGCM:
        return AESGCM(hashlib.blake2b(nonce + name.encode(), key=self._key, digest_size=32).digest())

    def _check_age(self, token: bytes) -> None:
        age_ns = time.monotonic_ns() - TOKEN.unpack(token)[0]
        if age_ns > self._lifetime_ns:
            raise StaleSealError(
                f"the request was checked {age_ns / 1e9:.1f} s ago; allowed: {self._lifetime_ns / 1e9:g} s"
            )


def _vouched(name: str, arrays: Arrays, user: int) -> bytes:
    """One user's part of the tensors that `name` vouches for."""
    rows = [arrays[other][user] for other in VOUCHED.get(name, ())]
    return b"".join(f"{row.dtype.str}{row.shape}".encode() + row.tobytes() for row in rows)


def _refused(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} was not sealed by this server for this request; "
        "inner nodes answer as steps of an ensemble alone"
    )
