"""Generations of all that is stored, of which one counts: so many users are replaced in one step."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from redis import Redis
from redis.client import Pipeline

from ensemble.stores.history_store import StoreError
from ensemble.stores.redis import scripts
from ensemble.stores.redis.connection import RedisConnection
from ensemble.stores.redis.layout import (
    FIRST_GENERATION,
    GENERATION,
    GENERATIONS,
    LATEST_GENERATION,
    REPLACING,
    chunks_key,
    user_key,
    users_key,
)

USERS_AT_ONCE = 500
"""Users of one step where all are gone through."""
REPLACING_MS = 60_000
"""Milliseconds after which somebody else may replace everything, where who began it writes nothing."""

Ask = Callable[[Pipeline, bytes], Any]
"""Puts commands for the keys of a generation into a pipeline."""


class Guard(NamedTuple):
    """What a write is allowed by: a key that has a value, and is kept for some time longer."""

    key: bytes
    value: bytes
    kept_ms: int = 0


class Generations:
    """What one process knows of them."""

    def __init__(self, server: RedisConnection) -> None:
        self._server = server
        self.current = FIRST_GENERATION
        """The one that counted when this process last looked."""

    def look(self, ask: Ask, generation: bytes | None = None) -> list[Any]:
        """Return the answers to what `ask` asks for, all of one moment: in a generation that is being made,
        else in the one that counts."""
        while True:
            counts = generation or self.current

            def call(redis: Redis, counts: bytes = counts) -> list[Any]:
                with redis.pipeline(transaction=True) as pipe:
                    pipe.get(GENERATION)
                    ask(pipe, counts)
                    return list(pipe.execute())

            found, *answers = self._server.ask(call)
            if generation is not None or (found or FIRST_GENERATION) == counts:
                return list(answers)
            self.current = found or FIRST_GENERATION

    def refresh(self) -> None:
        """Look which one counts."""
        self.look(lambda *_: None)

    @contextmanager
    def replacing(self) -> Iterator[tuple[bytes, Guard]]:
        """A generation to be filled, with what allows that, which counts in place of all others at the end
        unless anything is raised. Raises `StoreError` if somebody else makes one."""
        who = secrets.token_hex(16).encode()
        free = self._server.ask(lambda redis: redis.set(REPLACING, who, nx=True, px=REPLACING_MS))
        if not free:
            raise StoreError(
                f"history store {self._server.address} is being replaced by somebody else; try again once "
                f"that is done, or after {REPLACING_MS // 1000} s if it was interrupted"
            )
        try:
            self._clear_others(who)
            made = b"%d" % self._server.ask(lambda redis: redis.incr(LATEST_GENERATION))
            self._server.ask(lambda redis: redis.sadd(GENERATIONS, made))
            yield made, Guard(REPLACING, who, REPLACING_MS)
            if not self._server.run(scripts.SWITCH, [GENERATION, REPLACING], [made, who]):
                raise self.lost()
        finally:
            # What is left where this fails, or somebody else has taken over, the next replacement clears.
            with suppress(StoreError):
                self._clear_others(who)
                self._server.run(scripts.RELEASE, [REPLACING], [who])

    def lost(self) -> StoreError:
        """Return the error of a replacement that took too long between two steps."""
        return StoreError(
            f"history store {self._server.address} was not replaced: nothing was written for "
            f"{REPLACING_MS // 1000} s; what was there counts"
        )

    def _clear_others(self, who: bytes) -> None:
        """Remove all generations but the one that counts. Raises `StoreError` where somebody else makes one,
        which is not to be removed."""
        self.refresh()
        begun = {FIRST_GENERATION, *self._server.ask(lambda redis: redis.smembers(GENERATIONS))}
        for generation in begun - {self.current}:
            while users := self._users(generation):
                keys = [make(generation, user_id) for user_id in users for make in (user_key, chunks_key)]
                cleared = self._server.run(
                    scripts.CLEAR,
                    [REPLACING, GENERATION, users_key(generation), *keys],
                    [who, REPLACING_MS, generation, *users],
                )
                if not cleared:
                    raise self.lost()
            self._server.ask(partial(_forget, generation))

    def _users(self, generation: bytes) -> list[bytes]:
        [users] = self.look(lambda pipe, made: pipe.zrange(users_key(made), 0, USERS_AT_ONCE - 1), generation)
        return list(users)


def _forget(generation: bytes, redis: Redis) -> None:
    redis.srem(GENERATIONS, generation)
