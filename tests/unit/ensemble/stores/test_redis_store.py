"""What only Redis can do to a store: be away, hold what strangers wrote, lose an answer."""

import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ensemble.server.launcher import example_user
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import Appended, Events, HistoryStore, StoreError, StoreUnavailableError
from ensemble.stores.redis.store import RedisHistoryStore
from ensemble.stores.stores import has_histories, open_histories, writable_histories
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.stored_events import EXTREMES, events, identified, many, rows
from tests.support.waiting import holds_within
from unipinrec.config import first_fault

HEAD = b"unipinrec:1:0:u:ann"
CHUNKS = b"unipinrec:1:0:c:ann"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may stop."""
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def shared(redis: RedisServer) -> Iterator[RedisHistoryStore]:
    with redis.client as client:
        client.flushall()
    with RedisHistoryStore(redis.url, writable=True) as store:
        yield store


def test_a_user_is_a_head_and_32_bytes_an_event_and_full_chunks_are_beside(
    shared: RedisHistoryStore, redis: RedisServer
) -> None:
    shared.append(b"ann", events(EXTREMES))
    with redis.client as client:
        value = client.get(HEAD)
        magic, _, first, end = struct.unpack_from("<4s8sII", value)
        assert (magic, first, end) == (b"UPH1", 0, 1)
        assert value[20:] == b"".join(
            struct.pack("<qqQIi", item, stamp, 0, actions, surface)
            for item, actions, stamp, surface in EXTREMES
        )
        shared.append(b"ann", events(many(300, first=99_999_999_000)))
        assert sorted(client.hkeys(CHUNKS)) == [b"0", b"1"]
        assert client.hstrlen(CHUNKS, "1") == 127 * 32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda client: client.set(HEAD, b"text"), "begins with b'text'"),
        (lambda client: client.append(HEAD, b"x"), "bytes and places 0 to 2$"),
        (lambda client: client.hdel(CHUNKS, "1"), "has 0 bytes in chunk 1; allowed: 4064$"),
        (lambda client: client.hset(CHUNKS, "0", bytes(4064)[:-1] + b"\xff"), "surface is -16777216"),
        (lambda client: client.setrange(HEAD, 28, b"\0" * 8), "timestamp is 0 at event 254; allowed: asc"),
    ],
)
def test_what_no_store_has_written_is_refused_with_the_user(
    shared: RedisHistoryStore,
    redis: RedisServer,
    damage: Callable[[object], object],
    message: str,
) -> None:
    shared.append_all([(user, events(many(300))) for user in (b"ann", b"bob")])
    with redis.client as client:
        damage(client)
    with pytest.raises(StoreError, match=rf"what is stored of user 'ann' .*{message}") as refused:
        shared.read(b"ann")
    assert "\n" not in str(refused.value)
    assert rows(shared.read(b"bob")) == many(300)


def test_a_step_whose_answer_was_lost_is_answered_alike_when_sent_again(
    shared: RedisHistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shared._server.run
    monkeypatch.setattr(shared._server, "run", lambda *given: (run(*given), run(*given))[1])
    assert shared.append_all([(user, events(many(300))) for user in (b"ann", b"bob")]) == [(300, 0)] * 2
    assert shared.append(b"ann", events(many(9, first=295))) == Appended(4, 5)
    assert rows(shared.read(b"ann")) == many(304)
    assert shared.replace_all(lambda: [(b"cy", events(many(2)))]) == (1, 2)


def test_writers_of_the_same_users_take_turns(
    shared: RedisHistoryStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one writes between each reading and writing, thrice."""
    other, write, left = RedisHistoryStore(redis.url, writable=True), shared._write, [1, 2, 3]

    def after_another(*given: object) -> int:
        if left:
            other.append(b"ann", identified([(left.pop(), 1, 10, 0, "")]))
        return write(*given)

    monkeypatch.setattr(shared, "_write", after_another)
    assert shared.append(b"ann", events([(9, 1, 5, 0)])) == (1, 0)
    assert [event[0] for event in rows(shared.read(b"ann"))] == [9, 3, 2, 1]
    other.close()


def test_one_step_is_bounded(shared: RedisHistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.stores.redis.store.MOST_STEP_BYTES", 4_000)
    with pytest.raises(StoreError, match=r"bytes are to be written in one step; allowed: 1 to 4000; append"):
        shared.append(b"ann", events(many(127)))
    assert shared.append(b"ann", events(many(9))) == (9, 0)


def test_only_one_replaces_everything_and_what_an_interrupted_one_left_goes_with_the_next(
    shared: RedisHistoryStore, redis: RedisServer
) -> None:
    shared.append(b"old", events(many(300)))
    other = RedisHistoryStore(redis.url, writable=True)

    def histories() -> Iterator[tuple[bytes, Events]]:
        yield b"new", events(many(300))
        with pytest.raises(StoreError, match="is being replaced by somebody else; try again once"):
            other.replace_all(lambda: [(b"another", events(many(1)))])
        # It goes with what is replaced.
        other.append(b"old", events(many(1, first=400)))
        assert other.first_users(9) == [b"old"]

    assert shared.replace_all(histories) == (1, 300)
    for store in (shared, other):
        assert store.first_users(9) == [b"new"]
        assert store.append(b"new", events(many(1))) == (0, 1)
    with redis.client as client:
        # As if the next one had been killed half-way.
        client.sadd("unipinrec:1:generations", "7")
        client.zadd("unipinrec:1:7:users", {"ann": 0})
        client.set("unipinrec:1:7:u:ann", b"left")
        shared.replace_all(list)
        assert sorted(client.keys()) == [
            b"unipinrec:1:generation",
            b"unipinrec:1:generations",
            b"unipinrec:1:latest-generation",
        ]
    other.close()


def test_who_was_overtaken_while_replacing_removes_nothing_of_the_others(
    shared: RedisHistoryStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its right to replace ran out, and another one is about to replace everything, or has done so."""
    monkeypatch.setattr("ensemble.stores.history_store.USERS_AT_ONCE", 1)
    other = RedisHistoryStore(redis.url, writable=True)
    client = redis.client

    def late() -> AbstractContextManager[object]:
        replacing = shared._generations.replacing()
        replacing.__enter__()
        assert client.delete("unipinrec:1:replacing")
        return replacing

    overtaken = late()

    def others() -> Iterator[tuple[bytes, Events]]:
        yield b"new", events(many(300))
        with pytest.raises(StoreError, match="was not replaced: nothing was written for 60 s"):
            overtaken.__exit__(None, None, None)
        yield b"newer", events(many(2))

    assert other.replace_all(others) == (2, 302)
    assert shared.first_users(9) == [b"new", b"newer"]
    assert rows(shared.read(b"new")) == many(300)
    overtaken = late()
    other.replace_all(lambda: [(b"latest", events(many(2)))])
    with pytest.raises(StoreError, match="was not replaced"):
        overtaken.__exit__(None, None, None)
    assert rows(shared.read(b"latest")) == many(2)
    client.close()
    other.close()


def test_who_goes_through_all_users_is_told_that_they_were_replaced(shared: RedisHistoryStore) -> None:
    shared.append_all([(user, events(many(1))) for user in (b"ann", b"bob")])
    found = shared.histories()
    next(found)
    shared.replace_all(lambda: [(b"cy", events(many(1)))])
    with pytest.raises(StoreError, match="was replaced meanwhile; begin again"):
        list(found)


def test_a_deleted_user_leaves_no_key(shared: RedisHistoryStore, redis: RedisServer) -> None:
    shared.append(b"ann", events(many(300)))
    assert shared.delete(b"ann") == 300
    with redis.client as client:
        assert client.keys() == [b"unipinrec:1:deleted"]
        assert b"ann" not in client.dump("unipinrec:1:deleted")


def test_without_a_server_every_call_fails_within_a_bound_and_with_one_again_at_once(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisHistoryStore(own_server.url, writable=True) as store:
        store.append(b"ann", events(many(3)))
        for stop in (own_server.stop, lambda: own_server.stop(signal.SIGKILL)):
            stop()
            for call in (lambda: store.read(b"ann"), lambda: store.append(b"ann", events(many(4)))):
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError, match=f"^history store {own_server.address} is aw"):
                    call()
                assert time.monotonic() - began < 10.0
            own_server.start()
            assert holds_within(10.0, lambda: answers(store))
            assert rows(store.read(b"ann")) == many(3)
    told = [record.getMessage() for record in caplog.records]
    assert [line.endswith("answers again") for line in told] == [False, True] * 2
    assert own_server.password not in str(told)


def test_a_server_that_does_not_answer_is_waited_for_once(own_server: RedisServer) -> None:
    with RedisHistoryStore(own_server.url) as store:
        assert rows(store.read(b"ann")) == []
        own_server.send(signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailableError, match="is away: Timeout"):
                store.read(b"ann")
        # The others find out from the first.
        assert time.monotonic() - began < 20.0
        own_server.send(signal.SIGCONT)
        assert holds_within(10.0, lambda: answers(store))


def test_a_wrong_password_is_told_without_it(redis: RedisServer) -> None:
    with RedisHistoryStore(redis.url.replace(redis.password, "wr0ng")) as store:
        with pytest.raises(StoreError, match=f"^history store {redis.address}: ") as refused:
            store.read(b"ann")
        assert not isinstance(refused.value, StoreUnavailableError)
        assert "wr0ng" not in str(refused.value)


def test_a_server_starts_without_redis_and_not_with_a_wrong_password(own_server: RedisServer) -> None:
    told: list[str] = []
    settings = ServingSettings(histories_url=SecretStr(own_server.url))
    assert example_user(settings, told.append) == "42"
    assert told == []
    wrong = ServingSettings(histories_url=SecretStr(own_server.address))
    with pytest.raises(ServerError, match=f"^history store {own_server.address}: Authentication required"):
        example_user(wrong, told.append)
    own_server.stop()
    assert example_user(settings, told.append) == "42"
    [line] = told
    assert line.startswith(f"Warning: history store {own_server.address} is away: ")
    assert line.endswith("users who send no history get an error until it answers.")


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://",
        "redis://:s3cret@host:0",
        "redis://:s3c/ret@host",
        "redis://host/name",
        "redis://:s3cret@host?socket_timeout=9",
        "rediss://:s3cret@host?ssl_cert_reqs=none",
        "unix://",
    ],
)
def test_what_is_no_url_of_redis_is_refused_without_what_may_be_secret(url: str) -> None:
    with pytest.raises(ValidationError, match="allowed: redis://") as refused:
        ServingSettings(histories_url=SecretStr(url))
    assert "s3c" not in str(refused.value)
    assert first_fault(refused.value).startswith("histories_url is not shown; allowed: redis://")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://ann:s3cret@host", "redis://host:6379/0"),
        ("rediss://:s3cret@[::1]:7000/2?ssl_ca_certs=/ca.pem", "rediss://[::1]:7000/2"),
        ("unix:///run/redis.sock?db=3&password=s3cret", "unix:///run/redis.sock?db=3"),
    ],
)
def test_messages_name_server_and_database_alone(url: str, address: str) -> None:
    settings = ServingSettings(histories_url=SecretStr(url))
    assert has_histories(settings)
    stores = (open_histories(settings), writable_histories(settings))
    assert [store and store.address for store in stores] == [address] * 2
    assert "s3cret" not in repr(settings) + str(settings.as_environment())


def answers(store: HistoryStore) -> bool:
    try:
        store.read(b"ann")
    except StoreUnavailableError:
        return False
    return True
