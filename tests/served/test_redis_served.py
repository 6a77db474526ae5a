"""A server whose histories are in Redis: appends count, an outage is told in time, and ends by itself."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner
from unipinrec_client import (
    AppendRequest,
    Client,
    Event,
    GrpcClient,
    HttpClient,
    RecommendRequest,
    RetryPolicy,
    UnavailableError,
)
from unipinrec_client.cli import app as client_app

from commands.store import app as store_app
from ensemble.server.embedded_server import EmbeddedServer, failure_of
from ensemble.server.launcher import canaries_of
from ensemble.stores.redis.store import RedisHistoryStore
from tests.conftest import NOW, Exported, serving
from tests.served.metrics import metric
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.waiting import holds_within

ONCE = RetryPolicy(attempts=1)
BOUND_S = 8.0
"""Above what a node waits for Redis, and below the deadline of a request."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_served(
    exported: Exported, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory, profile: str | None
) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("served")
    own = replace(exported, histories=folder / "none")
    chosen = {"append_events": True, "histories_url": SecretStr(redis.url)}
    # It starts without.
    redis.stop()
    with serving(own, folder / "server.log", profile=profile, **chosen) as server:
        redis.start()
        assert holds_within(15.0, lambda: recommends(server))
        yield server


def request_of(user_id: str, **chosen: object) -> RecommendRequest:
    return RecommendRequest(user_id=user_id, request_time=NOW, **chosen)


def events(first: int, count: int = 10) -> list[Event]:
    return [Event(item_id=1000 + 3 * n, actions=1, timestamp=n) for n in range(first, first + count)]


def fails_in_time(client: Client, by_http: Client, redis: RedisServer, user: str) -> None:
    for call in (
        lambda: client.recommend(request_of(user)),
        lambda: by_http.recommend(request_of(user)),
        lambda: client.append_events(AppendRequest(user_id=user, events=events(50))),
    ):
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="the store of histories is away; try again") as refused:
            call()
        assert time.monotonic() - began < BOUND_S
        assert redis.address not in str(refused.value)


@pytest.mark.parametrize("outage", ["killed", pytest.param("silent", marks=pytest.mark.slow)])
def test_appends_count_and_an_outage_is_told_in_time_and_ends_by_itself(
    redis_served: EmbeddedServer, redis: RedisServer, outage: str
) -> None:
    begin, end = {
        "killed": (lambda: redis.stop(signal.SIGKILL), redis.start),
        "silent": (lambda: redis.send(signal.SIGSTOP), lambda: redis.send(signal.SIGCONT)),
    }[outage]
    user = f"met by {outage}"
    with (
        GrpcClient(redis_served.grpc_url, retry=ONCE) as client,
        HttpClient(redis_served.http_url, retry=ONCE) as by_http,
    ):
        assert client.append_events(AppendRequest(user_id=user, events=events(0, 20))).stored == 20
        shown = {item.item_id for item in client.recommend(request_of(user)).recommendations}
        assert shown.isdisjoint(event.item_id for event in events(0, 20))
        assert client.append_events(AppendRequest(user_id=user, events=events(15))).duplicates == 5
        assert client.recommend(request_of(user)).kv_source == "prefix"
        # Another host's.
        with RedisHistoryStore(redis.url) as store:
            assert store.read(user.encode())["timestamp"].tolist() == list(range(25))
        begin()
        fails_in_time(client, by_http, redis, user)
        # Who brings a history along is answered, and no node is taken for dead.
        assert client.recommend(request_of("bob", history=events(0))).recommendations
        with redis_served.client() as admin:
            failures = [failure_of(canary, admin) for canary in canaries_of(redis_served, 30.0)]
        assert failures == [None] * len(failures)
        end()
        assert holds_within(15.0, lambda: answered(client))
        assert client.recommend(request_of(user)).recommendations
        with RedisHistoryStore(redis.url) as store:
            found = store.read(user.encode())["timestamp"].tolist()
            # An append that was not answered in time may have been stored.
            assert found[:25] == list(range(25))
            assert found == sorted(set(found))
    assert metric(redis_served, "unipinrec_failed_requests_total", node="history", reason="unavailable") > 0
    assert metric(redis_served, "unipinrec_failed_requests_total", node="history", reason="internal") == 0
    log = redis_served.log_path.read_text()
    assert "answers again" in log
    assert redis.password not in log


def test_commands_use_the_same_store_and_deletions_reach_the_memory_of_servers(
    redis_served: EmbeddedServer, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIPINREC_HISTORIES_URL", redis.url)
    file = tmp_path / "events.jsonl"
    file.write_text('{"user_id": "cy", "item_ids": [1000, 1003], "actions": [1, 1], "timestamps": [1, 2]}\n')
    told = run(store_app, "append", str(file))
    assert told == f"2 events of 1 users appended to {redis.address}\n"
    with GrpcClient(redis_served.grpc_url, retry=ONCE) as client:
        client.append_events(AppendRequest(user_id="cy", events=events(100, 40)))
        client.recommend(request_of("cy"))
        assert client.recommend(request_of("cy")).kv_source == "prefix"
        before = metric(redis_served, "unipinrec_kv_wiped_total")
        assert run(store_app, "delete-user", "cy") == f"42 events of cy deleted from {redis.address}\n"
        assert holds_within(
            15.0,
            lambda: metric(redis_served, "unipinrec_kv_wiped_total") > before,
        )
    refused = CliRunner().invoke(store_app, ["compact"])
    assert refused.exit_code != 0
    assert "UNIPINREC_HISTORIES_URL names a server" in refused.stderr
    run(client_app, "health", "--url", redis_served.grpc_url)


def run(app: object, *arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def recommends(server: EmbeddedServer) -> bool:
    with GrpcClient(server.grpc_url, retry=ONCE) as client:
        return answered(client)


def answered(client: Client) -> bool:
    try:
        client.append_events(AppendRequest(user_id="back", events=events(0, 1)))
        client.recommend(request_of("back"))
    except UnavailableError:
        return False
    return True
