"""Items that callers add, update and remove are durable once answered, and known to what is asked next."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from unipinrec_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    Client,
    Event,
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    Item,
    ItemOutcome,
    Recommendation,
    RecommendError,
    RecommendRequest,
    RetryPolicy,
)
from unipinrec_client.cli import app

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import canaries_of
from ensemble.server.loopback import serve_on_loopback
from ensemble.server.rollout import Rollout
from ensemble.server.watchdog import Watchdog
from ensemble.settings import ServingSettings
from tests.conftest import NOW
from tests.served.metrics import metric
from tests.support.described import COLD_FROM, CONTENT, ITEMS, Described, describe_bundle
from tests.support.waiting import holds_within

NEW = 5_000
ONCE = RetryPolicy(attempts=1)
NUM_RESULTS = 8
CLIENTS = (GrpcClient, HttpClient, AsyncGrpcClient, AsyncHttpClient)

Serve = Callable[..., AbstractContextManager[EmbeddedServer]]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    return describe_bundle(tmp_path_factory.mktemp("described"))


@pytest.fixture(scope="module")
def serve(described: Described) -> Serve:
    """Starts a server of the bundle and its catalogue; one at a time."""
    base = described.folder.parents[1]

    def start(**chosen: Any) -> AbstractContextManager[EmbeddedServer]:
        settings = {
            "bundle": described.folder,
            "histories": base / "none",
            "catalogue": base / "catalogue",
            "exclude_seen": False,
            "log_level": "INFO",
        }
        return serve_on_loopback(ServingSettings(**(settings | chosen)), log_path=base / "server.log")

    return start


@pytest.fixture(scope="module")
def open_server(serve: Serve) -> Iterator[EmbeddedServer]:
    with serve(update_items=True) as server:
        yield server


def asked(seed: int, item_ids: Iterable[int] = (), **fields: Any) -> RecommendRequest:
    draw = np.random.default_rng(seed)
    # With one more, as many as the model reads: of fewer, no prefix is kept.
    ids = [*(1_000 + 3 * draw.integers(ITEMS, size=19)).tolist(), *item_ids]
    events = [Event(item_id=item_id, actions=1, timestamp=NOW - 600 + n) for n, item_id in enumerate(ids)]
    return RecommendRequest(
        user_id="ann", history=events, request_time=NOW, num_results=NUM_RESULTS, **fields
    )


def found(client: Client, request: RecommendRequest) -> dict[int, Recommendation]:
    return {one.item_id: one for one in client.recommend(request).recommendations}


def with_cold_item(client: Client, described: Described) -> tuple[RecommendRequest, int]:
    """A request that is answered with an item that training has not seen, and the row of that item."""
    for seed in range(100):
        for item_id in list(found(client, asked(seed)))[:3]:
            row = int(described.dataset.rows_of(item_id))
            if row >= COLD_FROM:
                return asked(seed), row
    raise AssertionError("no request has a cold item among its first")


def copied(described: Described, row: int, item_id: int) -> Item:
    """A new item that is described as one of the bundle."""
    attributes, content, _ = described.item(row)
    return Item(item_id=item_id, title=f"copy of {row}", attributes=attributes, content=content)


def update_with(make: type, url: str, change: Callable[[Any], Any]) -> tuple[ItemOutcome, ...]:
    """By a client of any transport."""
    if issubclass(make, Client):
        with make(url) as client:
            told: tuple[ItemOutcome, ...] = change(client)
            return told

    async def call() -> tuple[ItemOutcome, ...]:
        async with make(url) as client:
            answer: tuple[ItemOutcome, ...] = await change(client)
            return answer

    return asyncio.run(call())


@pytest.mark.parametrize("make", CLIENTS)
def test_an_added_item_is_recommended_like_its_equal_and_a_removed_one_never(
    open_server: EmbeddedServer, described: Described, make: type
) -> None:
    url = open_server.http_url if "Http" in make.__name__ else open_server.grpc_url
    item_id = NEW + CLIENTS.index(make)
    change = partial(update_with, make, url)
    with GrpcClient(open_server.grpc_url) as client:
        request, row = with_cold_item(client, described)
        twin = described.item_id(row)
        before = found(client, request)
        told = change(lambda one: one.put_items([copied(described, row, item_id)]))
        assert [(one.item_id, one.outcome, one.unknown_attributes) for one in told] == [(item_id, "added", 0)]
        with_both = found(client, request)
        assert with_both[item_id].score == pytest.approx(with_both[twin].score, rel=1e-4)
        assert change(lambda one: one.remove_items([item_id, twin, 1]))[2].outcome == "absent"
        left = found(client, request)
        assert not {item_id, twin} & left.keys()
        assert set(before) - {twin} <= set(left)
        # As the bundle has it, apart from its number.
        assert change(lambda one: one.put_items([copied(described, row, twin)]))[0].outcome == "added"
        again = found(client, request)
        assert again[twin].score == pytest.approx(before[twin].score, rel=1e-4)


def test_histories_with_added_items_are_read(open_server: EmbeddedServer, described: Described) -> None:
    row, item_id = COLD_FROM + 5, NEW + 20
    with GrpcClient(open_server.grpc_url) as client:
        client.put_items([copied(described, row, item_id)])
        answers = [found(client, asked(7, [one])) for one in (described.item_id(row), item_id)]
        assert list(answers[0]) == list(answers[1])
        assert answers[0] != found(client, asked(7))
        unseen = found(client, asked(7, [NEW + 999]))
        assert list(unseen) == list(found(client, asked(7)))
        # Its events stay, and the keys and values of their prefix with them.
        client.remove_items([item_id])
        answer = client.recommend(asked(7, [item_id]))
        assert answer.kv_source == "prefix"


def test_an_updated_item_has_another_vector_and_is_excluded_by_its_id(
    open_server: EmbeddedServer, described: Described
) -> None:
    with GrpcClient(open_server.grpc_url) as client:
        request, row = with_cold_item(client, described)
        twin = described.item_id(row)
        item_id = NEW + 30
        other = Item(item_id=item_id, content=[100.0] * CONTENT)
        assert client.put_items([other])[0].outcome == "added"
        told = client.put_items([copied(described, row, item_id)])
        assert told[0].outcome == "updated"
        assert client.put_items([copied(described, row, item_id)])[0] == ItemOutcome(
            item_id=item_id, outcome="unchanged", version=told[0].version
        )
        assert {item_id, twin} <= found(client, request).keys()
        excluding = RecommendRequest(
            user_id="ann",
            history=request.history,
            request_time=NOW,
            num_results=NUM_RESULTS,
            exclude_item_ids=[item_id],
        )
        assert item_id not in found(client, excluding)
        assert client.put_items([other])[0].outcome == "updated"
        score = found(client, request).get(item_id)
        assert score is None or score != found(client, request)[twin]
        client.remove_items([item_id])


@pytest.mark.parametrize("make", [GrpcClient, HttpClient])
def test_what_is_not_allowed_is_refused_and_nothing_of_the_request_stored(
    open_server: EmbeddedServer, make: type[GrpcClient] | type[HttpClient]
) -> None:
    url = open_server.http_url if make is HttpClient else open_server.grpc_url
    with make(url) as client:
        good = Item(item_id=NEW + 40)
        for bad, message in (
            (Item(item_id=-3), "^ITEM_ID is -3 at user 1; allowed: 0 to "),
            (Item(item_id=1, content=[1.0]), "^CONTENT has 1 values; allowed: 12 to 12$"),
            (Item(item_id=1, content=[float("nan")] * 12), "^CONTENT is nan at user 1"),
            (Item(item_id=1, attributes=range(257)), "^ATTRIBUTES has 257 values; allowed: 0 to 256$"),
        ):
            with pytest.raises(InvalidRequestError, match=message):
                client.put_items([good, bad])
        assert client.remove_items([NEW + 40])[0].outcome == "absent"


def test_changes_are_counted(open_server: EmbeddedServer) -> None:
    before = metric(open_server, "unipinrec_updated_items_total", outcome="added")
    with HttpClient(open_server.http_url) as client:
        client.put_items([Item(item_id=NEW + 100 + n) for n in range(7)])
    assert holds_within(
        5.0, lambda: metric(open_server, "unipinrec_updated_items_total", outcome="added") == before + 7
    )


def test_the_commands_add_and_remove(open_server: EmbeddedServer, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["items", *arguments, "--url", open_server.grpc_url])
        return result.exit_code, (result.stdout or result.stderr).strip()

    path = tmp_path / "items.jsonl"
    rows = [{"item_id": NEW + 1_000 + n, "title": f"title {n}", "attributes": [3, 7]} for n in range(600)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert run("add", str(path)) == (0, "600 added · 600 attributes unknown to the bundle")
    assert run("add", str(path)) == (0, "600 unchanged · 600 attributes unknown to the bundle")
    assert run("remove", str(NEW + 1_000), str(NEW + 1_001)) == (0, "2 removed")
    assert run("remove", "--file", str(path)) == (0, "2 absent · 598 removed")
    path.write_text('{"title": "no id"}')
    code, told = run("add", str(path))
    assert (code, told.count("\n")) == (2, 0)
    assert "allowed: a number item_id" in told


@pytest.mark.parametrize("node", ["update_items", "history", "ann", "scoring"])
def test_a_killed_node_is_loaded_again_and_knows_all(
    open_server: EmbeddedServer, described: Described, node: str
) -> None:
    with GrpcClient(open_server.grpc_url, timeout_s=20.0) as client:
        request, row = with_cold_item(client, described)
        first, second = NEW + 50, NEW + 51
        client.put_items([copied(described, row, first), copied(described, row, second)])
        client.remove_items([second])
        lines: list[str] = []
        with Watchdog(open_server, canaries_of(open_server), report=lines.append, interval_s=0.5):
            for pid in open_server.node_processes(node):
                os.kill(pid, signal.SIGKILL)
            assert holds_within(30.0, lambda: any(f"{node}_0_0 died" in line for line in lines))
        answer = found(client, request)
        assert first in answer
        assert second not in answer
        assert client.put_items([copied(described, row, second)])[0].outcome == "added"
        assert second in found(client, request)
        client.remove_items([first, second])


def test_a_restart_keeps_items_and_without_the_setting_nobody_changes_them(
    serve: Serve, described: Described, tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalogue"
    with serve(update_items=True, catalogue=catalogue) as server, GrpcClient(server.grpc_url) as client:
        request, row = with_cold_item(client, described)
        twin = described.item_id(row)
        client.put_items([copied(described, row, NEW)])
        client.remove_items([twin])
        before = found(client, request)
    with serve(catalogue=catalogue) as server, GrpcClient(server.grpc_url, retry=ONCE) as client:
        after = found(client, request)
        assert list(after) == list(before)
        assert NEW in after
        assert twin not in after
        with pytest.raises(
            InvalidRequestError, match=r"^update_items is off; allowed: with UNIPINREC_UPDATE"
        ):
            client.remove_items([NEW])
    with serve(catalogue=tmp_path / "none") as server, GrpcClient(server.grpc_url, retry=ONCE) as client:
        assert twin in found(client, request)
        with pytest.raises(RecommendError, match=r"update_items where the server takes"):
            client.remove_items([NEW])


def test_a_deployed_bundle_has_what_was_added_and_what_is_removed_stays_so_after_a_rollback(
    serve: Serve, described: Described, tmp_path: Path
) -> None:
    other = describe_bundle(tmp_path / "other", seed=4)
    settings = {"update_items": True, "catalogue": tmp_path / "catalogue"}

    def recommended(client: Client) -> set[int]:
        return {item_id for seed in range(20) for item_id in found(client, asked(seed))}

    with serve(**settings) as server, GrpcClient(server.grpc_url) as client:
        rollout = Rollout(server, lambda _: None)
        popular = sorted(recommended(client))
        client.put_items([copied(described, row, NEW + row) for row in range(200)])
        client.remove_items(popular[::2])
        rollout.deploy(other.folder, lambda _: None)
        assert client.recommend(asked(1)).bundle_id == other.folder.name
        answers = recommended(client)
        assert max(answers) >= NEW
        assert not set(popular[::2]) & answers
        gone = [*popular[1::2], *(one for one in answers if one >= NEW)]
        client.remove_items(gone)
        assert not {*popular, *gone} & recommended(client)
        rollout.rollback(lambda _: None)
        assert client.recommend(asked(1)).bundle_id == described.folder.name
        assert not {*popular, *gone} & recommended(client)
