"""Events that callers append are durable once answered, known to the next recommendation, and stored once."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from unipinrec_client import (
    AppendRequest,
    AppendResponse,
    AsyncGrpcClient,
    AsyncHttpClient,
    Client,
    Event,
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    RecommendError,
    RecommendRequest,
    RetryPolicy,
)
from unipinrec_client.cli import app

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import canaries_of
from ensemble.server.watchdog import Watchdog
from ensemble.stores.history_store import EVENT
from tests.conftest import ACTIONS, NOW, Exported, serving
from tests.served.metrics import metric
from tests.support.answers import Answer, Likeness, offline_answers
from tests.support.waiting import holds_within
from unipinrec.data.history import History
from unipinrec.models.unified.offline import OfflineRequest

NUM_RESULTS = 20
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def own_store(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The exported bundle beside a store that is not there yet."""
    return replace(exported, histories=tmp_path_factory.mktemp("appended") / "stores" / "histories")


@pytest.fixture(scope="module")
def open_server(own_store: Exported, profile: str | None) -> Iterator[EmbeddedServer]:
    """A server that lets callers append."""
    log = own_store.histories.parents[1] / "server.log"
    with serving(own_store, log, profile=profile, append_events=True) as server:
        yield server


def drawn(exported: Exported, seed: int, length: int) -> History:
    draw = np.random.default_rng((23, seed))
    return History(
        item_row_N=draw.integers(len(exported.dataset.item_ids_V), size=length),
        actions_N=draw.integers(1, 2 ** len(ACTIONS), size=length),
        timestamp_N=1_700_000_000 + draw.integers(1, 5_000, size=length).cumsum(),
        surface_N=draw.integers(2, size=length),
    )


def sent(exported: Exported, history: History) -> list[Event]:
    columns = (
        exported.dataset.item_ids_V[history.item_row_N],
        history.actions_N,
        history.timestamp_N,
        history.surface_N,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Event(**dict(zip(EVENT.names or (), row, strict=True))) for row in rows]


def request_of(user_id: str) -> RecommendRequest:
    return RecommendRequest(user_id=user_id, request_time=NOW, num_results=NUM_RESULTS)


def append_with(make: type, url: str, request: AppendRequest) -> AppendResponse:
    """By a client of any transport."""
    if issubclass(make, Client):
        with make(url) as client:
            return client.append_events(request)

    async def append() -> AppendResponse:
        async with make(url) as client:
            return await client.append_events(request)

    return asyncio.run(append())


@pytest.mark.parametrize("make", [GrpcClient, HttpClient, AsyncGrpcClient, AsyncHttpClient])
def test_appended_events_are_known_to_the_next_recommendation_and_continue_its_prefix(
    open_server: EmbeddedServer, own_store: Exported, promised: Likeness, make: type
) -> None:
    user = f"by {make.__name__}"
    url = open_server.http_url if "Http" in make.__name__ else open_server.grpc_url
    whole = drawn(own_store, len(user), 30)
    events = sent(own_store, whole)
    with GrpcClient(open_server.grpc_url) as client:
        assert client.recommend(request_of(user)).kv_source in ("prefill", "prefix")
        found, sources = [], []
        for end, begin in ((20, 0), (25, 20), (30, 15)):
            told = append_with(make, url, AppendRequest(user_id=user, events=events[begin:end]))
            assert (told.stored, told.duplicates) == ((20, 0), (5, 0), (5, 10))[len(found)]
            answer = client.recommend(request_of(user))
            found.append(Answer.served(answer))
            sources.append(answer.kv_source)
    # Before the first append there was no event to continue from.
    assert sources[1:] == ["prefix"] * 2
    right = [
        offline_answers(
            own_store, [OfflineRequest(history=whole[:end], request_time=NOW, surface=0)], NUM_RESULTS
        )[0]
        for end in (20, 25, 30)
    ]
    assert promised.differences(found, right) == ""


def test_late_events_are_put_in_order(
    open_server: EmbeddedServer, own_store: Exported, promised: Likeness
) -> None:
    whole = drawn(own_store, 1, 40)
    events = sent(own_store, whole)
    with GrpcClient(open_server.grpc_url) as client:
        for part in (events[20:], events[:10], events[5:20]):
            client.append_events(AppendRequest(user_id="late", events=part))
        answer = client.recommend(request_of("late"))
    right = offline_answers(
        own_store, [OfflineRequest(history=whole, request_time=NOW, surface=0)], NUM_RESULTS
    )
    assert promised.differences([Answer.served(answer)], right) == ""


def test_many_users_and_ids_in_one_request(open_server: EmbeddedServer) -> None:
    one = Event(item_id=1000, actions=1, timestamp=5, event_id="a")
    requests = [AppendRequest(user_id=f"many-{n}", events=[one] * (n % 3)) for n in range(256)]
    with GrpcClient(open_server.grpc_url) as client:
        told = client.append_events_many(requests)
        again = client.append_events_many(requests[:3], request_id="again")
    assert [(answer.stored, answer.duplicates) for answer in told[:3]] == [(0, 0), (1, 0), (1, 1)]
    assert [(answer.stored, answer.duplicates) for answer in again] == [(0, 0), (0, 1), (0, 2)]
    assert again[0].request_id == "again"


@pytest.mark.parametrize("make", [GrpcClient, HttpClient])
def test_what_is_not_allowed_is_refused_and_nothing_of_the_request_stored(
    open_server: EmbeddedServer, make: type[GrpcClient] | type[HttpClient]
) -> None:
    good = Event(item_id=1000, actions=1, timestamp=5)
    wrong = [
        (replace(good, actions=2 ** len(ACTIONS)), r"^ACTIONS is 8 at user 1, event 1; allowed: 0 to 7$"),
        (replace(good, timestamp=4), r"^TIMESTAMPS is 4 at user 1, event 1; allowed: ascending, at least 5$"),
        (replace(good, item_id=-7), r"^ITEM_IDS is -7 at user 1, event 1; allowed: -1 to "),
        (
            replace(good, event_id="x" * 257),
            r"^EVENT_IDS has 257 bytes at user 1, event 1; allowed: 0 to 256$",
        ),
    ]
    url = open_server.http_url if make is HttpClient else open_server.grpc_url
    with make(url) as client:
        for event, message in wrong:
            requests = [
                AppendRequest(user_id=f"{make.__name__} good", events=[good]),
                AppendRequest(user_id="bad", events=[good, event]),
            ]
            with pytest.raises(InvalidRequestError, match=message):
                client.append_events_many(requests)
        assert client.append_events(requests[0]).stored == 1


def test_a_bad_request_in_a_batch_fails_alone(open_server: EmbeddedServer) -> None:
    """Sixty at once, so that some are batched."""
    answers: dict[int, AppendResponse | str] = {}

    def append(number: int) -> None:
        event = Event(item_id=1000, actions=1 + 7 * (number % 3 == 0), timestamp=5)
        with GrpcClient(open_server.grpc_url) as client:
            try:
                answers[number] = client.append_events(AppendRequest(user_id=f"b{number}", events=[event]))
            except InvalidRequestError as error:
                answers[number] = str(error)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n for n, answer in answers.items() if isinstance(answer, str)} == set(range(0, 60, 3))
    assert all(answer.stored == 1 for answer in answers.values() if isinstance(answer, AppendResponse))
    batches = metric(open_server, "nv_inference_exec_count", model="append_events")
    assert batches < metric(open_server, "nv_inference_count", model="append_events")


def test_what_became_of_events_is_counted(open_server: EmbeddedServer) -> None:
    def counts() -> dict[str, float]:
        return {
            outcome: metric(open_server, "unipinrec_appended_events_total", outcome=outcome)
            for outcome in ("stored", "duplicate", "too old")
        }

    before = counts()
    events = [Event(item_id=1000, actions=1, timestamp=time) for time in range(7)]
    with HttpClient(open_server.http_url) as client:
        for _ in range(2):
            client.append_events(AppendRequest(user_id="counted", events=events))
    wanted = {
        "stored": before["stored"] + 7,
        "duplicate": before["duplicate"] + 7,
        "too old": before["too old"],
    }
    assert holds_within(5.0, lambda: counts() == wanted)


def test_the_command_appends_and_refuses_in_one_line(open_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(json.dumps([{"item_id": 1000, "actions": 1, "timestamp": 5, "event_id": "a"}]))
    command = ["append", "--user", "by command", str(path), "--url", open_server.grpc_url]
    for told in ("1 stored · 0 duplicates · 0 too old", "0 stored · 1 duplicates · 0 too old"):
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, result.stdout.strip()) == (0, told)
    path.write_text("[{}]")
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("events[0] is {}; allowed: ")


def test_a_server_takes_no_events_unless_it_is_told_to(server: EmbeddedServer) -> None:
    request = AppendRequest(user_id="ann", events=[Event(item_id=1000, actions=1, timestamp=5)])
    for client in (GrpcClient(server.grpc_url, retry=ONCE), HttpClient(server.http_url, retry=ONCE)):
        with client, pytest.raises(RecommendError, match=r"where the server takes events and items$"):
            client.append_events(request)


def test_a_killed_node_is_loaded_again_and_has_lost_nothing(open_server: EmbeddedServer) -> None:
    def events(first: int) -> AppendRequest:
        return AppendRequest(
            user_id="survivor", events=[Event(item_id=1000 + first, actions=1, timestamp=first)]
        )

    with GrpcClient(open_server.grpc_url, timeout_s=2.0, retry=ONCE) as client:
        client.append_events(events(1))
        lines: list[str] = []
        with Watchdog(open_server, canaries_of(open_server), report=lines.append, interval_s=0.5):
            for pid in open_server.node_processes("append_events"):
                os.kill(pid, signal.SIGKILL)
            assert holds_within(30.0, lambda: any("append_events_0_0 died" in line for line in lines))
        told = client.append_events_many([events(1), events(2)])
    assert [(answer.stored, answer.duplicates) for answer in told] == [(0, 1), (1, 0)]
