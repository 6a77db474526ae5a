"""The store's commands beside a server that reads and writes it: forgetting, compacting, importing."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from unipinrec_client import AppendRequest, Event, GrpcClient, RecommendRequest

from ensemble.kv.pool import PoolDirectory
from ensemble.kv.shared_memory import SharedMemoryStorage
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ROOT
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import ACTIONS, LEASE_MS, NOW, Exported, serving
from tests.served.caller import asking
from tests.served.metrics import metric
from tests.support.waiting import holds_within
from unipinrec.data.events import DatasetInfo
from unipinrec.data.prepared import write_prepared

EVENTS = 40


@pytest.fixture(scope="module")
def own_store(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return replace(exported, histories=tmp_path_factory.mktemp("kept") / "histories")


@pytest.fixture(scope="module")
def open_server(own_store: Exported, profile: str | None) -> Iterator[EmbeddedServer]:
    """A server that lets callers append to a store of its own."""
    log = own_store.histories.with_name("server.log")
    with serving(own_store, log, profile=profile, append_events=True) as server:
        yield server


def store(path: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`unipinrec store` in a process of its own."""
    line = [sys.executable, "-m", "commands.store", command, *arguments, "--histories", str(path)]
    return subprocess.run(line, cwd=ROOT, text=True, capture_output=True, check=False)


def appended(user_id: str, number: int, events: int = EVENTS) -> AppendRequest:
    """Events whose items and times are no other user's."""
    rows = [Event(item_id=1000 + 3 * (number + n), actions=1, timestamp=1000 * n) for n in range(events)]
    return AppendRequest(user_id=user_id, events=rows)


def request_of(user_id: str) -> RecommendRequest:
    return RecommendRequest(user_id=user_id, request_time=NOW, num_results=20)


Place = tuple[int, int]
"""A pool's epoch and a slot."""


def filled(server: EmbeddedServer) -> set[Place]:
    """Slots whose memory has anything behind BOS, which is the same for everybody."""
    found = set()
    for pool in PoolDirectory(server.serving.runtime_dir).others(0):
        storage = pool.storage
        assert isinstance(storage, SharedMemoryStorage)
        positions = storage.layout.shape[3]
        found |= {
            (pool.epoch, slot)
            for slot in range(storage.layout.slots)
            if storage.read(slot, positions)[:, :, :, 1:].any()
        }
    return found


def test_nothing_of_a_deleted_user_stays_in_any_slot(
    open_server: EmbeddedServer, own_store: Exported, profile: str | None
) -> None:
    if profile == "gpu":
        pytest.skip("reads slots in shared memory")
    with GrpcClient(open_server.grpc_url) as client:
        canaries = filled(open_server)
        client.append_events(appended("bob", 0))
        client.recommend(request_of("bob"))
        with_bob = filled(open_server)
        client.append_events(appended("ann", 1))
        # Several at once, so that several instances hold the user.
        with asking(open_server.grpc_url, [request_of("ann")]) as seen:
            assert holds_within(30.0, lambda: sum(a.kv_source == "prefix" for *_, a in seen.answers) > 20)
        of_stored = filled(open_server) - with_bob
        sent = appended("ann", 2, events=5).events
        client.recommend(replace(request_of("ann"), history=sent))
        anns = filled(open_server) - with_bob
        assert of_stored < anns
        assert with_bob - canaries
        nobody = client.recommend(request_of("nobody"))

        deleted = store(own_store.histories, "delete-user", "ann")
        assert deleted.returncode == 0, deleted.stderr
        assert deleted.stdout.startswith(f"{EVENTS} events of ann deleted from ")
        assert holds_within(1.0, lambda: not filled(open_server) & anns)
        assert filled(open_server) >= with_bob

        answer = client.recommend(request_of("ann"))
        assert [item.item_id for item in answer.recommendations] == [
            item.item_id for item in nobody.recommendations
        ]
        assert client.recommend(request_of("bob")).kv_source == "prefix"
    assert metric(open_server, "unipinrec_kv_wiped_total") >= len(anns)


def test_requests_under_way_bring_a_deleted_user_back_for_a_short_time_alone(
    open_server: EmbeddedServer, own_store: Exported, profile: str | None
) -> None:
    if profile == "gpu":
        pytest.skip("reads slots in shared memory")
    with GrpcClient(open_server.grpc_url) as client:
        before = filled(open_server)
        client.append_events(appended("cy", 2))
        with asking(open_server.grpc_url, [request_of("cy")]) as seen:
            assert holds_within(30.0, lambda: len(seen.answers) > 50)
            assert store(own_store.histories, "delete-user", "cy").returncode == 0
            answered = len(seen.answers)
            assert holds_within(30.0, lambda: len(seen.answers) > answered + 50)
        assert seen.failures == []
    assert holds_within(LEASE_MS / 1000 + 1.0, lambda: filled(open_server) <= before)


def test_a_store_in_use_is_not_compacted_and_goes_on(
    open_server: EmbeddedServer, own_store: Exported
) -> None:
    with GrpcClient(open_server.grpc_url) as client:
        for number in range(3):
            told = client.append_events(appended(f"kept-{number}", number))
            compacted = store(own_store.histories, "compact")
            assert compacted.returncode == 2
            assert compacted.stderr == (
                f"history store {own_store.histories} is in use; "
                "stop the servers and whatever else has it open\n"
            )
            assert told.stored == EVENTS
            assert client.append_events(appended(f"kept-{number}", number)).duplicates == EVENTS


def test_a_dataset_is_imported_beside_callers_who_append(
    open_server: EmbeddedServer, own_store: Exported, tmp_path: Path
) -> None:
    info = DatasetInfo(
        name="shop", actions=ACTIONS, sampled_impressions=True, utility_weights=(1.0,) * len(ACTIONS)
    )
    rows = [(f"user {n % 50}", 1000 + 3 * (n % 7), 1, n) for n in range(5_000)]
    columns = ["user_id", "item_id", "actions", "timestamp"]
    items = pl.DataFrame({"item_id": [1000 + 3 * n for n in range(7)], "title": ["item"] * 7})
    write_prepared(tmp_path / "shop", pl.DataFrame(rows, columns, orient="row"), items, info)
    live = [Event(item_id=1000, actions=1, timestamp=time) for time in range(9_000, 9_040)]
    with GrpcClient(open_server.grpc_url) as client:
        for event in live[:20]:
            client.append_events(AppendRequest(user_id="user 0", events=[event]))
        for _ in range(2):
            imported = store(own_store.histories, "import", "--dataset", str(tmp_path / "shop"))
            assert imported.returncode == 0, imported.stderr
        for event in live[10:]:
            client.append_events(AppendRequest(user_id="user 0", events=[event]))
        assert client.recommend(request_of("user 0")).recommendations
    with LmdbHistoryStore(own_store.histories) as kept:
        found = kept.read(b"user 0")["timestamp"].tolist()
    assert found == [*range(0, 5_000, 50), *range(9_000, 9_040)]
