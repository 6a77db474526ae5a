"""How the cost of a request grows with history, candidates, batch, cached users and catalogue.

Graphs run in this process on one thread, with the sizes of `bench-cpu` but for the one that is varied.

Shapes: X positions of several requests one after another, K candidates, V items, E width.
"""

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import nn

from benchmarks.synthetic_vectors import draw_clustered
from ensemble.executors.torchscript.encoder import HistoryEncoder
from ensemble.index.item_search import ItemSearch
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import KVPool, PoolDirectory
from ensemble.kv.prefill import Prefill
from ensemble.kv.prefix_cache import PrefixCache
from ensemble.kv.shared_memory import SharedMemoryStorage, bytes_of
from ensemble.kv.slot_storage import SlotLayout
from ensemble.settings import SHARED_MEMORY
from experiments.report import Machine
from export.item_index import build_index, choose_kind
from unipinrec.config import Config
from unipinrec.data.history import History
from unipinrec.models.unified.config import UnifiedConfig, preset
from unipinrec.models.unified.graphs import EncoderGraph, RankingHeadGraph
from unipinrec.models.unified.module import UnifiedRecommender

PRESET = "bench-cpu"
ITEMS, ACTIONS = 5_000, 4
APPENDED = 8
LEASE_MS = 1
SEARCHES = 100
WARM_UP = 3
"""Calls that do not count: TorchScript optimises a graph in its first runs."""
NOTHING = np.empty(0, np.int64)

EVENTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CANDIDATES = (32, 64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
USERS = (16, 64, 256, 1024)
CATALOGUES = (1_000, 3_000, 10_000, 30_000, 100_000)


class Cost(Config):
    """One size of what is varied."""

    size: int
    ms: dict[str, float]
    """Median wall time of one call, by what is called."""
    mib: dict[str, float] = Field(default_factory=dict)
    """Memory, by what needs it."""


class GrowthReport(Config):
    """What `unipinrec bench-growth` found."""

    preset: str = PRESET
    precision: str = "float32"
    runs: int
    machine: Machine
    history: tuple[Cost, ...]
    candidates: tuple[Cost, ...]
    batch: tuple[Cost, ...]
    cached_users: tuple[Cost, ...]
    catalogue: tuple[Cost, ...]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")


def measure_growth(most: int, runs: int, tell: Callable[[str], None]) -> GrowthReport:
    """Measure every axis up to `most` of its sizes, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return GrowthReport(
                runs=runs,
                machine=Machine.here(),
                history=_axis("events", EVENTS[:most], lambda size: _history(size, runs), tell),
                candidates=_axis("candidates", CANDIDATES[:most], lambda size: _candidates(size, runs), tell),
                batch=_axis("requests of a batch", BATCHES[:most], lambda size: _batch(size, runs), tell),
                cached_users=_axis("cached users", USERS[:most], lambda size: _users(size, runs), tell),
                catalogue=_axis("items", CATALOGUES[:most], _catalogue, tell),
            )
    finally:
        torch.set_num_threads(threads)


def _axis(
    name: str, sizes: Sequence[int], cost: Callable[[int], Cost], tell: Callable[[str], None]
) -> tuple[Cost, ...]:
    costs = []
    for size in sizes:
        costs.append(cost(size))
        spent = ", ".join(f"{what} {ms:.2f} ms" for what, ms in costs[-1].ms.items())
        tell(f"{size:,} {name}: {spent}")
    return tuple(costs)


class _Model:
    """Exported graphs of random weights, and slots to run them on."""

    def __init__(self, max_history: int) -> None:
        self.config: UnifiedConfig = preset(
            PRESET, num_items=ITEMS, num_actions=ACTIONS, max_history=max_history
        )
        torch.manual_seed(1)
        model = UnifiedRecommender(self.config).eval()
        self.vector_VE = model.embedder.all_vectors()
        self.encoder = HistoryEncoder(_exported(EncoderGraph(model)), self.vector_VE.numpy())
        self.storage = SharedMemoryStorage(None, SlotLayout.of_model(self.config, 0, "float32"))
        self.ranking = _exported(RankingHeadGraph(model))
        self._draw = np.random.default_rng(3)

    def encode(self, histories: Sequence[History], cached: int) -> None:
        """Continue the slots of as many requests behind `cached` positions."""
        self.encoder(self.storage, [Prefill(history, cached, slot) for slot, history in enumerate(histories)])

    @property
    def slot_mib(self) -> float:
        """Keys and values of one slot."""
        return self.storage.read(0, self.config.max_positions).nbytes / 2**20

    def history(self, length: int) -> History:
        return History(
            item_row_N=self._draw.integers(ITEMS, size=length),
            actions_N=self._draw.integers(1, 2**ACTIONS, size=length),
            timestamp_N=1_700_000_000 + self._draw.integers(1, 9_000, size=length).cumsum(),
            surface_N=np.zeros(length, np.int64),
        )

    def rank(self, batch: int, length: int, candidates: int) -> None:
        """Candidates of as many requests over their slots."""
        vector_BKE = self.vector_VE[:candidates].expand(batch, -1, -1)
        time_B = torch.full((batch,), 1_800_000_000)
        slots = [self.storage.read(slot, length + 1) for slot in range(batch)]
        self.ranking(vector_BKE, time_B, torch.zeros_like(time_B), slots)


def _exported(graph: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is what a bundle holds.
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen: nn.Module = torch.jit.freeze(torch.jit.script(graph.eval()))
    return frozen


def _history(events: int, runs: int) -> Cost:
    model = _Model(events)
    histories = [model.history(events)]
    cached = events + 1 - APPENDED
    with _peak_mib() as peak:
        ms = {
            "whole history": _median_ms(lambda: model.encode(histories, 0), runs),
            f"last {APPENDED} events": _median_ms(lambda: model.encode(histories, cached), runs),
            "128 candidates": _median_ms(lambda: model.rank(1, events, 128), runs),
        }
    return Cost(size=events, ms=ms, mib={"slot": model.slot_mib, "while computing": peak[0]})


def _candidates(candidates: int, runs: int) -> Cost:
    model = _Model(512)
    model.encode([model.history(512)], 0)
    with _peak_mib() as peak:
        ms = {"candidates": _median_ms(lambda: model.rank(1, 512, candidates), runs)}
    return Cost(size=candidates, ms=ms, mib={"while computing": peak[0]})


def _batch(requests: int, runs: int) -> Cost:
    """Milliseconds of one request within a batch."""
    model = _Model(512)
    histories = [model.history(512) for _ in range(requests)]
    ms = {
        "whole history": _median_ms(lambda: model.encode(histories, 0), runs),
        f"last {APPENDED} events": _median_ms(lambda: model.encode(histories, 513 - APPENDED), runs),
        "128 candidates": _median_ms(lambda: model.rank(requests, 512, 128), runs),
    }
    return Cost(size=requests, ms={what: value / requests for what, value in ms.items()})


def _users(users: int, runs: int) -> Cost:
    """Requests of cached users, whatever the number of them; histories are short so that filling is quick."""
    model = _Model(64)
    layout = SlotLayout.of_model(model.config, users, "float32")
    folder = Path(tempfile.mkdtemp(prefix="unipinrec-growth-", dir=SHARED_MEMORY))
    pool = KVPool(folder, "bench", layout, LEASE_MS)
    try:
        block = model.config.window_block
        cache = PrefixCache(
            model.encoder, pool, PoolDirectory(folder), lambda history: EventChain(history, "bench", block)
        )
        histories = [model.history(64) for _ in range(users)]
        for history in histories:
            cache.encode([history[:-APPENDED]])
        turn = iter(range(users))
        appended = _median_ms(lambda: cache.encode([histories[next(turn)]]), min(runs, users - WARM_UP))
        again = _median_ms(lambda: cache.encode([histories[0]]), runs)
    finally:
        pool.close()
        shutil.rmtree(folder)
    ms = {f"{APPENDED} more events": appended, "the same history": again}
    return Cost(size=users, ms=ms, mib={"pool": bytes_of(layout) / 2**20})


def _catalogue(items: int) -> Cost:
    vector_VE, query_QE = draw_clustered(items, SEARCHES, 64, seed=5)
    kind = choose_kind("auto", items)
    index = build_index(kind, vector_VE)
    search = ItemSearch(index)
    queries = iter(query_QE)
    ms = _median_ms(lambda: search.nearest(next(queries)[None], 128, NOTHING), SEARCHES - WARM_UP)
    return Cost(size=items, ms={kind: ms}, mib={"vectors": vector_VE.nbytes / 2**20})


def _median_ms(call: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[WARM_UP:])


@contextmanager
def _peak_mib() -> Iterator[list[float]]:
    """What the process needs at most within, above what it holds at first; the list is filled at the end."""
    found: list[float] = []
    # Lets the kernel count the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    yield found
    found.append(max(_status_mib("VmHWM") - before, 0.0))


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
