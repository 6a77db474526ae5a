"""Histories in Redis: one server, to which the servers of many hosts write and from which they read."""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Self

import numpy as np
from redis.client import Pipeline

from ensemble.owners import OWNER_BYTES, owners_of
from ensemble.stores.deletion_notices import KEPT_S, Notice
from ensemble.stores.history_store import (
    IDENTIFIED,
    MOST_EVENTS,
    Appended,
    Events,
    StoreError,
    StoreUnavailableError,
    Written,
    as_read,
    check_events,
    in_steps,
)
from ensemble.stores.redis import scripts
from ensemble.stores.redis.connection import RedisConnection
from ensemble.stores.redis.generations import USERS_AT_ONCE, Generations, Guard
from ensemble.stores.redis.layout import (
    GENERATION,
    NOTICES,
    TOKEN_BYTES,
    LayoutError,
    checked,
    chunks_key,
    count_of,
    user_key,
    users_key,
)
from ensemble.stores.redis.user_copy import UserCopy
from unipinrec.data.limits import LONGEST_USER_ID

READ_S, WRITE_S = 1.0, 5.0
"""Seconds that an answer may take. A write waits for the server's disk."""
READ_AT_ONCE = 64
"""Users whose events are asked for in one step, of which each may have a mebibyte."""
MOST_STEP_BYTES = 32 << 20
"""Of all that is written in one step, during which the server does nothing else."""
CONTENTION_S = 5.0
"""Seconds after which a write gives up that others were always ahead of."""
NONCE_BYTES = 8


class RedisHistoryStore:
    """A `HistoryStore` on a server, for any number of processes on any host, and of threads in each.

    Making one sends nothing. A write is one script, which changes all or nothing, and nothing where somebody
    else has changed one of its users since they were read: then it is made anew.
    """

    def __init__(self, url: str, *, writable: bool = False, most_events: int = MOST_EVENTS) -> None:
        """Of each user the latest `most_events` are read, and kept when more are appended. Raises
        `StoreError` if the URL cannot be read."""
        self._writable, self._most_events = writable, most_events
        self._server = RedisConnection(url, timeout_s=WRITE_S if writable else READ_S)
        self._generations = Generations(self._server)

    @property
    def address(self) -> str:
        """The server and its database."""
        return self._server.address

    def read(self, user_id: bytes) -> Events:
        """Return the stored events of a user, oldest first; empty for an unknown user. Raises
        `StoreUnavailableError`, as all that follows does, where the server does not answer in time."""
        return self.read_all([user_id])[0]

    def read_all(self, user_ids: Sequence[bytes]) -> list[Events]:
        """Return the stored events of several users; those of up to `READ_AT_ONCE` are of one moment."""
        asked = [user_id for user_id in dict.fromkeys(user_ids) if 0 < len(user_id) <= LONGEST_USER_ID]
        found = dict(self._whole(asked))
        nothing = np.empty(0, IDENTIFIED)
        return [as_read(found.get(user_id, nothing)) for user_id in user_ids]

    def first_users(self, count: int) -> list[bytes]:
        """Return the ids of at most `count` users, in the order of their bytes."""
        if count < 1:
            return []
        [users] = self._generations.look(
            lambda pipe, generation: pipe.zrange(users_key(generation), 0, count - 1)
        )
        return list(users)

    def histories(self) -> Iterator[tuple[bytes, Events]]:
        """Yield the id and the events of every user, each as it is when it comes to it. Raises `StoreError`
        where all are replaced meanwhile."""
        users = self._users_after(b"-")
        began = self._generations.current
        while users:
            yield from self._whole(users)
            users = self._users_after(b"(" + users[-1])
            if self._generations.current != began:
                raise StoreError(f"history store {self.address} was replaced meanwhile; begin again")

    def append(self, user_id: bytes, events: Events) -> Appended:
        """Add events to a user's. Raises `InvalidEventsError` and `StoreError`, as the protocol says."""
        return self.append_all([(user_id, events)])[0]

    def append_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users, all or nothing. Returns what became of the events of each."""
        return self._append(histories)

    def merge_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users, all or nothing, what is not stored yet under whatever id."""
        return self._append(histories, known_by_id=False)

    def replace_all(self, histories: Callable[[], Iterable[tuple[bytes, Events]]]) -> Written:
        """Store these in place of all that there are, as a generation that counts once it is complete. What
        others append meanwhile goes with what is replaced."""
        self._check_writable()
        stored: list[int] = []
        with self._generations.replacing() as making:
            for step in in_steps(histories()):
                stored += [history.stored for history in self._append(step, making=making)]
        return Written(np.count_nonzero(stored), sum(stored))

    def delete(self, user_id: bytes) -> int:
        """Forget a user, and leave a notice of it. Returns how many events there were."""
        self._check_writable()
        notice = secrets.token_bytes(NONCE_BYTES) + b"".join(owners_of(user_id))
        while True:
            now = self._generations.current
            keys = [GENERATION, users_key(now), user_key(now, user_id), chunks_key(now, user_id), NOTICES]
            value = self._server.run(scripts.DELETE, keys, [now, user_id, notice, 1_000 * KEPT_S])
            if value != scripts.GUARDED:
                with self._told_of(user_id):
                    return count_of(value) if value else 0
            self._generations.refresh()

    def deleted_after(self, number: int) -> list[Notice]:
        """Return the notices of deleted users with numbers above one; 0: all that are left."""
        found = self._server.ask(
            lambda redis: redis.zrangebyscore(NOTICES, f"({number}", "+inf", withscores=True)
        )
        return [Notice(int(score), _owners(value)) for value, score in found]

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(
        self,
        histories: Collection[tuple[bytes, Events]],
        *,
        known_by_id: bool = True,
        making: tuple[bytes, Guard] | None = None,
    ) -> list[Appended]:
        """What an append comes to, to the generation that counts or to one that is being made."""
        self._check_writable()
        given = [(user_id, check_events(user_id, events)) for user_id, events in histories]
        until = time.monotonic() + CONTENTION_S
        while True:
            some = [history for history in given if len(history[1])]
            copies = self._copies(some, known_by_id, making and making[0])
            appended = [
                copies[user_id].append(events, self._most_events, known_by_id=known_by_id)
                if len(events)
                else Appended(0, 0)
                for user_id, events in given
            ]
            changed = [copy for copy in copies.values() if copy.is_changed]
            counts = self._generations.current
            told = self._write(changed, *(making or (counts, Guard(GENERATION, counts))))
            if told == scripts.WRITTEN:
                return appended
            if told == scripts.GUARDED and making is not None:
                raise self._generations.lost()
            self._generations.refresh()
            if time.monotonic() > until:
                raise StoreUnavailableError(
                    f"history store {self.address}: others have written to the same users for "
                    f"{CONTENTION_S:g} s; append fewer at once"
                )
            # Who has to begin anew does so at another moment than the others.
            time.sleep(secrets.randbelow(5) / 1_000)

    def _copies(
        self, given: Sequence[tuple[bytes, Events]], known_by_id: bool, generation: bytes | None
    ) -> dict[bytes, UserCopy]:
        """What is stored of all users, as far as appending to them needs it."""
        copies: dict[bytes, UserCopy] = {}
        for some in in_turns(list(dict(given)), READ_AT_ONCE):
            values = self._generations.look(partial(_ask_heads, some), generation)
            for user_id, value in zip(some, values, strict=True):
                with self._told_of(user_id):
                    copies[user_id] = UserCopy(user_id, value or b"")
        lacking = {user_id for user_id, events in given if copies[user_id].lacks(events, known_by_id)}
        return copies | dict(self._whole_copies(list(lacking), generation))

    def _whole_copies(
        self, user_ids: Sequence[bytes], generation: bytes | None = None
    ) -> Iterator[tuple[bytes, UserCopy]]:
        """All that is stored of each user."""
        for some in in_turns(user_ids, READ_AT_ONCE):
            answers = self._generations.look(partial(_ask_all, some), generation)
            for user_id, value, found in zip(some, answers[::2], answers[1::2], strict=True):
                with self._told_of(user_id):
                    copy = UserCopy(user_id, value or b"")
                    copy.add_full(found)
                yield user_id, copy

    def _whole(self, user_ids: Sequence[bytes]) -> Iterator[tuple[bytes, Events]]:
        """The latest events of those users who have some."""
        for user_id, copy in self._whole_copies(user_ids):
            with self._told_of(user_id):
                events = checked(user_id, copy.since(copy.first)[-self._most_events :])
            if len(events):
                yield user_id, events

    def _users_after(self, last: bytes) -> list[bytes]:
        [users] = self._generations.look(
            lambda pipe, now: pipe.zrangebylex(users_key(now), last, b"+", 0, USERS_AT_ONCE)
        )
        return list(users)

    def _write(self, changed: Sequence[UserCopy], generation: bytes, guard: Guard) -> int:
        if not changed:
            return scripts.WRITTEN
        token = secrets.token_bytes(TOKEN_BYTES)
        keys = [make(generation, copy.user_id) for copy in changed for make in (user_key, chunks_key)]
        given = [part for copy in changed for part in copy.changes(token)]
        taken = sum(len(part) for part in given if isinstance(part, bytes))
        if taken > MOST_STEP_BYTES:
            raise StoreError(
                f"history store {self.address}: {taken} bytes are to be written in one step; "
                f"allowed: 1 to {MOST_STEP_BYTES}; append fewer events at once"
            )
        told = self._server.run(
            scripts.WRITE,
            [guard.key, users_key(generation), *keys],
            [guard.value, guard.kept_ms, len(changed), *given],
        )
        return int(told)

    def _check_writable(self) -> None:
        if not self._writable:
            raise StoreError(f"history store {self.address} was opened read-only")

    @contextmanager
    def _told_of(self, user_id: bytes) -> Iterator[None]:
        """Raise `StoreError` with the user's id for what no store has written."""
        try:
            yield
        except LayoutError as error:
            raise StoreError(
                f"history store {self.address}: what is stored of user {user_id.decode(errors='replace')!r} "
                f"{error}"
            ) from None


def in_turns(users: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """Yield the users in parts of at most `most`."""
    for begin in range(0, len(users), most):
        yield users[begin : begin + most]


def _ask_heads(user_ids: Sequence[bytes], pipe: Pipeline, generation: bytes) -> None:
    for user_id in user_ids:
        pipe.get(user_key(generation, user_id))


def _ask_all(user_ids: Sequence[bytes], pipe: Pipeline, generation: bytes) -> None:
    for user_id in user_ids:
        pipe.get(user_key(generation, user_id))
        pipe.hgetall(chunks_key(generation, user_id))


def _owners(value: bytes) -> list[bytes]:
    return [value[at : at + OWNER_BYTES] for at in range(NONCE_BYTES, len(value), OWNER_BYTES)]
