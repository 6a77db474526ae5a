"""Eight write and eight read while the server is stopped and killed: nothing that was answered is lost."""

import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ensemble.stores.history_store import StoreUnavailableError
from ensemble.stores.redis.store import RedisHistoryStore
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.stored_events import identified
from tests.support.waiting import holds_within

WRITERS = READERS = 8
LONGEST_READ_S = 10.0
"""Far above what a store waits, since the host may be busy."""
SHARED = b"everybody's"


class Traffic:
    """Writers, each of whom appends to a user of its own and, in the same step, to one that all share, and
    readers of the former."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._ended = threading.Event()
        self.answered = [0] * WRITERS
        self.reads = [0] * READERS
        self.failures = 0
        self.longest_read_s = 0.0
        self.wrong: list[str] = []
        self._threads = [
            threading.Thread(target=work, args=(number,))
            for work, many in ((self._write, WRITERS), (self._read, READERS))
            for number in range(many)
        ]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> bool:
        """Whether every writer is answered and every reader reads from now on."""
        before = [*self.answered, *self.reads]
        return holds_within(
            60.0,
            lambda: all(now > then for now, then in zip([*self.answered, *self.reads], before, strict=True)),
        )

    def _write(self, writer: int) -> None:
        with RedisHistoryStore(self._server.url, writable=True) as store:
            while not self._ended.is_set():
                number = self.answered[writer]
                event = identified([(number, 1, number, 0, f"{number}" if number % 2 else "")])
                ours = identified([(writer, 1, number, 0, "")])
                try:
                    store.append_all([(b"%d" % writer, event), (SHARED, ours)])
                    self.answered[writer] = number + 1
                except StoreUnavailableError:
                    self.failures += 1
                    time.sleep(0.02)

    def _read(self, reader: int) -> None:
        with RedisHistoryStore(self._server.url) as store:
            while not self._ended.is_set():
                least, began = self.answered[reader], time.monotonic()
                try:
                    found = store.read(b"%d" % reader)["item_id"].tolist()
                    if len(found) < least or found != list(range(len(found))):
                        self.wrong.append(f"{least} answered, {found[:3]} to {found[-3:]} found")
                    self.reads[reader] += 1
                except StoreUnavailableError:
                    time.sleep(0.02)
                self.longest_read_s = max(self.longest_read_s, time.monotonic() - began)


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_nothing_answered_is_lost_readers_are_bounded_and_all_go_on(tmp_path: Path, times: int) -> None:
    with ExitStack() as opened:
        server = opened.enter_context(redis_server(tmp_path))
        with Traffic(server) as traffic:
            assert traffic.goes_on()
            for number in (signal.SIGTERM, signal.SIGKILL) * times:
                server.stop(number)
                time.sleep(0.3)
                server.start()
                assert traffic.goes_on()
        assert traffic.wrong == []
        assert traffic.failures > 0
        assert traffic.longest_read_s < LONGEST_READ_S
        store = opened.enter_context(RedisHistoryStore(server.url))
        ours = store.read(SHARED)
        for writer, answered in enumerate(traffic.answered):
            found = store.read(b"%d" % writer)["item_id"].tolist()
            # The last append may have been written and not answered.
            assert found == list(range(len(found)))
            assert answered <= len(found) <= answered + 1
            assert ours["timestamp"][ours["item_id"] == writer].tolist() == found
        print(
            f"{sum(traffic.answered)} appends answered, {traffic.failures} failed, "
            f"{sum(traffic.reads)} reads, longest read {traffic.longest_read_s:.2f} s"
        )
