"""Notices of users who were deleted, by which whoever keeps something of a user elsewhere learns of it."""

import time
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

import lmdb

NOTICES = b"deleted-1"
"""The table, which stores of before there were notices lack."""
KEPT_S = 86_400
"""How long a notice stays, for readers that were held up. It is dropped at the next deletion after."""

KEY = Struct(">Q")
VALUE = Struct("<Q16s")


class Notice(NamedTuple):
    """That a user was deleted."""

    number: int
    """Counted up, from 1."""
    user: bytes
    """`user_digest` of the id."""


def user_digest(user_id: bytes) -> bytes:
    """Return 16 bytes that stand for a user. Whoever can guess the id can tell that they do."""
    return blake2b(user_id, digest_size=VALUE.size - 8).digest()


class DeletionNotices:
    """The notices in one transaction."""

    def __init__(self, transaction: lmdb.Transaction, table: Any) -> None:
        self._transaction, self._table = transaction, table

    def add(self, user_id: bytes) -> None:
        """Leave a notice, and drop those that are older than `KEPT_S`."""
        now = int(time.time())
        with self._transaction.cursor(self._table) as cursor:
            number = KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 1
            cursor.put(KEY.pack(number), VALUE.pack(now, user_digest(user_id)))
            while cursor.first() and VALUE.unpack(cursor.value())[0] < now - KEPT_S:
                cursor.delete()

    def after(self, number: int) -> list[Notice]:
        """Return those with larger numbers, in order."""
        with self._transaction.cursor(self._table) as cursor:
            if not cursor.set_range(KEY.pack(number + 1)):
                return []
            return [Notice(*KEY.unpack(key), VALUE.unpack(value)[1]) for key, value in cursor]
