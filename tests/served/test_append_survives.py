"""No acknowledged event is lost when a process is killed during appends, and none is stored twice."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from unipinrec_client import AppendRequest, Event, GrpcClient, RecommendError, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import canaries_of
from ensemble.server.loopback import start
from ensemble.server.server_error import ServerError
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import Exported, serving
from tests.support.waiting import holds_within

CALLERS = 4
START_TIMEOUT_S = 120.0
"""Of the slow test, which takes ten seconds for each."""
ONCE = RetryPolicy(attempts=1)


class Appending:
    """Callers who append one event after the other, each to a user of its own, and note what was answered."""

    def __init__(self) -> None:
        self.sent = [0] * CALLERS
        self.answered = [0] * CALLERS
        """Events of each caller up to the latest that was answered. One that was not is sent again until it
        is."""

    @contextmanager
    def to(self, url: str) -> Iterator[None]:
        stopped = threading.Event()

        def append(caller: int) -> None:
            with GrpcClient(url, timeout_s=1.0, retry=ONCE) as client:
                while not stopped.is_set():
                    number = self.answered[caller]
                    self.sent[caller] = number + 1
                    try:
                        client.append_events(
                            AppendRequest(user_id=f"caller-{caller}", events=[event(number)])
                        )
                        self.answered[caller] = number + 1
                    except RecommendError:
                        time.sleep(0.02)

        threads = [threading.Thread(target=append, args=(caller,)) for caller in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


def event(number: int) -> Event:
    """Every third has an id."""
    name = f"{number}" if number % 3 == 0 else ""
    return Event(item_id=1000 + number % 7, actions=1, timestamp=number // 5, event_id=name)


def until_answering(server: EmbeddedServer) -> None:
    for canary in canaries_of(server):
        server.wait_until_serving(canary, START_TIMEOUT_S)


def kill_server(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ServerError, match="stopped by signal 9"):
        assert holds_within(10.0, lambda: server.check_running())
    server.stop()
    start(server, START_TIMEOUT_S)


def kill_node(server: EmbeddedServer) -> None:
    headers = server.admin_headers
    for pid in server.node_processes("append_events"):
        os.kill(pid, signal.SIGKILL)
    with server.client() as client:
        client.unload_model("append_events", headers=headers)
        client.load_model("append_events", headers=headers)
    until_answering(server)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def test_what_was_answered_is_there_once_after_processes_were_killed(
    exported: Exported, tmp_path: Path, profile: str | None, kills: int
) -> None:
    own = replace(exported, histories=tmp_path / "histories")
    appending = Appending()
    ways: list[Callable[[EmbeddedServer], None]] = [kill_server, kill_node]
    with serving(own, tmp_path / "server.log", profile=profile, append_events=True) as server:
        for number in range(kills):
            before = list(appending.answered)
            with appending.to(server.grpc_url):
                assert holds_within(
                    30.0,
                    lambda before=before: all(a > b for a, b in zip(appending.answered, before, strict=True)),
                )
                ways[number % len(ways)](server)
                after = list(appending.answered)
                assert holds_within(
                    30.0,
                    lambda after=after: all(a > b for a, b in zip(appending.answered, after, strict=True)),
                )
            check(own.histories, appending)


def check(histories: Path, appending: Appending) -> None:
    """A process that dies may have stored what it did not answer."""
    with LmdbHistoryStore(histories) as store:
        for caller in range(CALLERS):
            found = store.read(f"caller-{caller}".encode())
            answered, sent = appending.answered[caller], appending.sent[caller]
            assert answered <= len(found) <= sent
            assert found["item_id"].tolist() == [1000 + number % 7 for number in range(len(found))]
            assert found["timestamp"].tolist() == [number // 5 for number in range(len(found))]
