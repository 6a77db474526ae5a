"""What appending events costs: the store alone, and a server that takes them from callers, with every write
synced to the disk of `out`."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from unipinrec_client import AppendRequest, AsyncGrpcClient, Event, GrpcClient, RecommendRequest, RetryPolicy

from benchmarks.random_bundle import FIRST_ITEM, ITEM_STEP, make_random_bundle
from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, median_ms, run_sweeps
from ensemble.server.loopback import serve_on_loopback
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import IDENTIFIED, Events
from ensemble.stores.lmdb_store import LmdbHistoryStore

LENGTHS = (200, 2_000, 16_000)
IN_FLIGHT = (1, 8, 64)
EVENTS_OF_A_REQUEST = (1, 10, 100)
CALLERS = 8
APPENDED = ("0", "1", "8")
WARM_USERS, WARM_EVENTS, WARM_ASKED, WARM_WINDOWS = 10, 200, 6, 15
ITEMS = 20_000
FIRST_TIME = 1_700_000_000
USER = b"measured"


def appends(
    out: Path, seconds: float, tell: Callable[[str], None], *, sizes: str = "bench-cpu"
) -> SweepReport:
    """Measure a store of users with histories of several lengths, and a server of random weights under
    appends; `sizes` names the preset of its model. Raises `ServerError` if it does not start."""
    bundle = make_random_bundle(ITEMS, out / "bundles", tell, sizes=sizes)
    with TemporaryDirectory(dir=out) as folder:
        histories = Path(folder) / "served"
        settings = ServingSettings(
            bundle=bundle.folder, histories=histories, histories_url=None, append_events=True
        )
        with serve_on_loopback(settings, log_path=out / "appends.log") as server:
            load = AppendLoad(server.grpc_url, seconds)
            warm = WarmUsers(server.grpc_url, seconds)
            sweeps = [
                Sweep("events of a user", LENGTHS, lambda length: alone(Path(folder), length, seconds)),
                Sweep("requests in flight", IN_FLIGHT, lambda callers: load.measure(callers, 1)),
                Sweep("events of a request", EVENTS_OF_A_REQUEST, lambda count: load.measure(CALLERS, count)),
                Sweep("events before a recommendation", APPENDED, warm.measure),
            ]
            described = {
                "preset": sizes,
                "requests in flight of requests of several events": CALLERS,
                "events of a user of whom a recommendation is asked": WARM_EVENTS,
                "seconds": seconds,
            }
            return run_sweeps("appends", described, sweeps, tell)


def alone(folder: Path, length: int, seconds: float) -> Measures:
    """Return what a store costs without a server, in which a user has so many events before and after."""
    numbers = itertools.count(length)

    def events(first: int, count: int, with_ids: bool = False) -> Events:
        made = np.zeros(count, IDENTIFIED)
        made["timestamp"] = FIRST_TIME + first + np.arange(count)
        made["event_id"] = made["timestamp"] if with_ids else 0
        return made

    with LmdbHistoryStore(folder / f"alone-{length}", writable=True, most_events=length) as store:
        store.append(USER, events(0, length))
        return {
            "read, ms": median_ms(lambda: store.read(USER), seconds),
            "append of one, ms": median_ms(lambda: store.append(USER, events(next(numbers), 1)), seconds),
            "append of one with an id, ms": median_ms(
                lambda: store.append(USER, events(next(numbers), 1, with_ids=True)), seconds
            ),
        }


@dataclass(slots=True)
class AppendLoad:
    """Callers who append events of their own users without a pause, without retries."""

    url: str
    seconds: float
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def measure(self, callers: int, events: int) -> Measures:
        """Return rate and latency with so many requests in flight, of so many events each."""
        took_s = asyncio.run(self._run(callers, events))
        p50, p99 = 1e3 * np.quantile(took_s, [0.5, 0.99])
        rate = len(took_s) * events / self.seconds
        return {"events, 1/s": rate, "p50, ms": float(p50), "p99, ms": float(p99)}

    async def _run(self, callers: int, events: int) -> list[float]:
        took_s: list[float] = []
        async with AsyncGrpcClient(self.url, retry=RetryPolicy(attempts=1)) as client:

            async def call(caller: int) -> None:
                while time.perf_counter() < end:
                    began = time.perf_counter()
                    await client.append_events(self._request(caller, events))
                    took_s.append(time.perf_counter() - began)

            end = time.perf_counter() + self.seconds
            await asyncio.gather(*(call(caller) for caller in range(callers)))
        return took_s

    def _request(self, caller: int, events: int) -> AppendRequest:
        first = FIRST_TIME + next(self._numbers) * events
        return AppendRequest(user_id=f"caller-{caller}", events=_events(first, events))


@dataclass(slots=True)
class WarmUsers:
    """Users who have a prefix. Those of one kind append so many events, then ask for a recommendation, and so
    on with the next: without other load, and kind by kind in turn, so that all meet the same."""

    url: str
    seconds: float
    _asked_s: dict[int, list[float]] = field(default_factory=dict)
    _both_s: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, count: str) -> Measures:
        """Return the latency of users who append so many events."""
        if not self._asked_s:
            self._run()
        asked_ms, both_ms = (1e3 * np.array(took_s[int(count)]) for took_s in (self._asked_s, self._both_s))
        none_ms = 1e3 * np.median(self._asked_s[0])
        return {
            "recommendation p50, ms": float(np.median(asked_ms)),
            "recommendation p50, times that without an append": float(np.median(asked_ms) / none_ms),
            "append and recommendation p50, ms": float(np.median(both_ms)),
            "append and recommendation p99, ms": float(np.quantile(both_ms, 0.99)),
        }

    def _run(self) -> None:
        counts = [int(count) for count in APPENDED]
        self._asked_s = {count: [] for count in counts}
        self._both_s = {count: [] for count in counts}
        with closing(GrpcClient(self.url)) as client:
            for count, number in itertools.product(counts, range(WARM_USERS)):
                user_id = _warm(count, number)
                client.append_events(AppendRequest(user_id=user_id, events=_events(FIRST_TIME, WARM_EVENTS)))
                # Often enough for every instance to have met the user.
                for _ in range(WARM_ASKED):
                    client.recommend(RecommendRequest(user_id=user_id))
            end = time.perf_counter() + WARM_WINDOWS * self.seconds
            for turn in itertools.count():
                for count in counts:
                    self._ask(client, count, turn)
                if time.perf_counter() > end:
                    return

    def _ask(self, client: GrpcClient, count: int, turn: int) -> None:
        user_id, first = _warm(count, turn % WARM_USERS), FIRST_TIME + WARM_EVENTS + turn * count
        began = time.perf_counter()
        if count:
            client.append_events(AppendRequest(user_id=user_id, events=_events(first, count)))
        asked = time.perf_counter()
        client.recommend(RecommendRequest(user_id=user_id))
        answered = time.perf_counter()
        self._asked_s[count].append(answered - asked)
        self._both_s[count].append(answered - began)


def _warm(count: int, number: int) -> str:
    return f"warm-{count}-{number}"


def _events(first: int, count: int) -> list[Event]:
    """Of known items, a second apart from unix second `first` on."""
    return [
        Event(item_id=FIRST_ITEM + ITEM_STEP * (at % ITEMS), actions=1, timestamp=at)
        for at in range(first, first + count)
    ]
