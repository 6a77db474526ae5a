"""How the cost of a request grows with history, candidates, batch, cached users and catalogue.

Graphs run in this process on one thread, with the sizes of `bench-cpu` but for the one that is varied.

Shapes: V items, Q queries, E width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from torch.utils.benchmark import Timer

from benchmarks.sweep.graphs import APPENDED, CANDIDATES, EVENTS, PRESET, ServedGraphs
from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, median_ms, run_sweeps
from benchmarks.synthetic_vectors import draw_clustered
from ensemble.index.item_search import ItemSearch
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import KVPool, PoolDirectory
from ensemble.kv.prefix_cache import PrefixCache
from ensemble.kv.shared_memory import bytes_of
from ensemble.kv.slot_storage import SlotLayout
from ensemble.settings import SHARED_MEMORY
from export.item_index import build_index, choose_kind

MIB = 2**20
SHORT = 64
"""Events of users of whom there are many, so that filling is quick."""

LEASE_MS = 1
PAGE_BYTES = 4096
NOTHING = np.empty(0, np.int64)
WHOLE, LAST, RANKED = "whole history, ms", f"last {APPENDED} events, ms", f"{CANDIDATES} candidates, ms"
PEAK = "while computing, MiB"

SIZES = {
    "events of a history": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "candidates": (32, 64, 128, 256, 512, 1024, 2048),
    "requests of a batch": (1, 2, 4, 8, 16),
    "cached users": (16, 64, 256, 1024),
    "items of the catalogue": (1_000, 3_000, 10_000, 30_000, 100_000),
}


def growth(seconds: float, most: int | None, tell: Callable[[str], None]) -> SweepReport:
    """Measure over `most` of the sizes, the smallest first, with calls of so many seconds each."""

    def events(size: int) -> Measures:
        graphs = ServedGraphs(size)
        histories = [graphs.history(size)]
        with _peak_mib() as peak:
            ms = {
                WHOLE: median_ms(lambda: graphs.encode(histories), seconds),
                LAST: median_ms(lambda: graphs.encode(histories, size + 1 - APPENDED), seconds),
                RANKED: median_ms(lambda: graphs.rank(1, size), seconds),
            }
        return ms | {"slot, MiB": graphs.slot_mib, PEAK: peak[0]}

    def candidates(size: int) -> Measures:
        graphs = ServedGraphs()
        graphs.encode([graphs.history()])
        with _peak_mib() as peak:
            ms = median_ms(lambda: graphs.rank(1, EVENTS, size), seconds)
        return {"candidates, ms": ms, PEAK: peak[0]}

    def batch(size: int) -> Measures:
        graphs = ServedGraphs()
        histories = [graphs.history() for _ in range(size)]
        calls = {
            WHOLE: lambda: graphs.encode(histories),
            LAST: lambda: graphs.encode(histories, EVENTS + 1 - APPENDED),
            RANKED: lambda: graphs.rank(size),
        }
        # Of one request within the batch.
        return {name: median_ms(call, seconds) / size for name, call in calls.items()}

    def users(size: int) -> Measures:
        graphs = ServedGraphs(SHORT)
        layout = SlotLayout.of_model(graphs.config, size, "float32")
        block = graphs.config.window_block
        with TemporaryDirectory(prefix="unipinrec-growth-", dir=SHARED_MEMORY) as name:
            folder = Path(name)
            pool = KVPool(folder, "bench", layout, LEASE_MS)
            cache = PrefixCache(
                graphs.encoder,
                pool,
                PoolDirectory(folder),
                lambda history, owner: EventChain(history, "bench", block, owner),
            )
            histories = [graphs.history(SHORT) for _ in range(size)]
            for history in histories:
                cache.encode([history[:-APPENDED]])
            # Only the first request of a user appends.
            turn = iter(histories)
            timer = Timer("encode([next(turn)])", globals={"encode": cache.encode, "turn": turn})
            # The timer warms up with a hundredth of the calls that it is asked for, and with 2 at least.
            appended_ms = 1e3 * timer.timeit(size - max(size // 100, 2)).mean
            again_ms = median_ms(lambda: cache.encode([histories[0]]), seconds)
            pool.close()
        ms = {f"{APPENDED} more events, ms": appended_ms, "the same history, ms": again_ms}
        return ms | {"pool, MiB": bytes_of(layout) / MIB}

    def items(size: int) -> Measures:
        vector_VE, query_QE = draw_clustered(size, 100, 64, seed=5)
        kind = choose_kind("auto", size)
        search = ItemSearch(build_index(kind, vector_VE))
        ms = median_ms(
            lambda: [search.nearest(query[None], CANDIDATES, NOTHING) for query in query_QE], seconds
        )
        return {f"{kind}, ms": ms / len(query_QE), "vectors, MiB": vector_VE.nbytes / MIB}

    measures = zip(SIZES.items(), (events, candidates, batch, users, items), strict=True)
    sweeps = [Sweep(name, sizes[:most], measure) for (name, sizes), measure in measures]
    settings = {"preset": PRESET, "precision": "float32", "seconds": seconds}
    return run_sweeps("growth", settings, sweeps, tell)


@contextmanager
def _peak_mib() -> Iterator[list[float]]:
    """Yield a list that at the end holds what the process needed at most, above what it held at first."""
    found: list[float] = []
    # Lets the kernel count the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    yield found
    found.append(max(1024 * getrusage(RUSAGE_SELF).ru_maxrss - before, PAGE_BYTES) / MIB)
