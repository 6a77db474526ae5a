"""Notices of users who were deleted, by which whoever keeps something of a user elsewhere learns of it."""

import time
from struct import Struct
from typing import Any, NamedTuple

import lmdb

from ensemble.owners import OWNER_BYTES, owners_of

NOTICES = b"deleted-1"
"""The table, which stores of before there were notices lack."""
KEPT_S = 86_400
"""How long a notice stays, for readers that were held up. It is dropped at the next deletion after."""

KEY = Struct(">Q")
TIME = Struct("<Q")


class Notice(NamedTuple):
    """That a user was deleted."""

    number: int
    """Counted up, from 1."""
    owners: list[bytes]
    """All that may stand for the user: `ensemble.owners`."""


class DeletionNotices:
    """The notices in one transaction: unix seconds and owners, by number."""

    def __init__(self, transaction: lmdb.Transaction, table: Any) -> None:
        self._transaction, self._table = transaction, table

    def add(self, user_id: bytes) -> None:
        """Leave a notice, and drop those that are older than `KEPT_S`."""
        now = int(time.time())
        with self._transaction.cursor(self._table) as cursor:
            number = KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 1
            cursor.put(KEY.pack(number), TIME.pack(now) + b"".join(owners_of(user_id)))
            while cursor.first() and TIME.unpack_from(cursor.value())[0] < now - KEPT_S:
                cursor.delete()

    def after(self, number: int) -> list[Notice]:
        """Return those with larger numbers, in order."""
        with self._transaction.cursor(self._table) as cursor:
            if not cursor.set_range(KEY.pack(number + 1)):
                return []
            return [Notice(KEY.unpack(key)[0], _owners(bytes(value))) for key, value in cursor]


def _owners(value: bytes) -> list[bytes]:
    return [value[begin : begin + OWNER_BYTES] for begin in range(TIME.size, len(value), OWNER_BYTES)]
