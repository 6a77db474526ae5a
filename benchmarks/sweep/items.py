"""What adding and removing items costs a server under load, and whether its search still finds what an index
does that was built anew of all items.

Shapes: V items of the bundle, N added ones, Q query embeddings, K items found, E item width.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from unipinrec_client import (
    AsyncGrpcClient,
    Event,
    Item,
    RecommendError,
    RecommendRequest,
    RetryPolicy,
)

from benchmarks.random_bundle import FIRST_ITEM, ITEM_STEP, RandomBundle, make_random_bundle, random_content
from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, run_sweeps
from ensemble.arrays import Floats, Int64s
from ensemble.index.item_search import NOTHING, ItemSearch
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.server.loopback import serve_on_loopback
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from export.item_index import build_index
from unipinrec.bundle import INDEX_TUNED_FOR
from unipinrec.models.common.item_graph import ItemGraph

ITEMS, ADDED, REMOVED = 40_000, 10_000, 1_000
"""With so many items a bundle's index is a graph."""
CONTENT = 32
FIRST_NEW = 10_000_000
AT_ONCE, REMOVED_AT_ONCE = 250, 25
CALLERS, EVENTS = 4, 50
QUERIES, NOISE = 500, 0.3
SEED = 5


def item_changes(
    out: Path,
    seconds: float,
    tell: Callable[[str], None],
    *,
    sizes: str = "bench-cpu",
    catalogue: int = ITEMS,
    added: int = ADDED,
    removed: int = REMOVED,
) -> SweepReport:
    """Measure a server of random weights under load while items are added and others removed, a tenth of
    these out of the added ones, and for 20 x `seconds` before, between and after. Then compare what its
    search finds with an index of all items that are left. Raises `ServerError` if it does not start."""
    bundle = make_random_bundle(catalogue, out / "bundles", tell, sizes=sizes, content=CONTENT)
    with TemporaryDirectory(dir=out) as folder:
        settings = ServingSettings(
            bundle=bundle.folder,
            histories=Path(folder) / "none",
            histories_url=None,
            catalogue=Path(folder) / "catalogue",
            update_items=True,
            max_added_items=max(added, 1),
        ).sealing()
        with serve_on_loopback(settings, log_path=out / "items.log") as server, asyncio.Runner() as runner:
            load = Load(server.grpc_url, bundle, 20 * seconds)
            changes = Changes(bundle, added, removed)
            before = _processes(server.pid)
            work = {
                "before": load.rest,
                "adding": lambda client: changes.add(client),
                "between": load.rest,
                "removing": lambda client: changes.remove(client, load),
                "after": load.rest,
            }
            sweeps = [
                Sweep("phase", tuple(work), lambda phase: runner.run(load.during(work[phase]))),
                Sweep(
                    "search after all",
                    ("all",),
                    lambda _: {
                        **found(bundle, settings, changes),
                        "processes ended": float(len(before - _processes(server.pid))),
                    },
                ),
            ]
            described = {
                "preset": sizes,
                "items": catalogue,
                "index": bundle.manifest.index,
                "added": added,
                "removed": removed,
                "items added by a request": AT_ONCE,
                "items removed by a request": REMOVED_AT_ONCE,
                "callers of recommendations": CALLERS,
                "events of a history": EVENTS,
                "seconds of a phase without changes": 20 * seconds,
            }
            return run_sweeps("items", described, sweeps, tell)


@dataclass(slots=True)
class Changes:
    """What is added and removed."""

    bundle: RandomBundle
    added: int
    removed: int
    content_NF: Floats = field(init=False)
    removed_ids: Int64s = field(init=False)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(SEED)
        self.content_NF = random_content(self.added, CONTENT, SEED)
        new = min(self.removed // 10, self.added)
        old_ids = draw.permutation(self.bundle.item_ids)[: self.removed - new]
        new_ids = FIRST_NEW + draw.permutation(self.added)[:new]
        self.removed_ids = draw.permutation(np.concatenate([old_ids, new_ids]))

    async def add(self, client: AsyncGrpcClient) -> Measures:
        """Add all; return how fast."""
        rows = self.content_NF.tolist()
        made = [Item(item_id=FIRST_NEW + n, title=f"new {n}", content=row) for n, row in enumerate(rows)]
        return await _timed(made, client.put_items, AT_ONCE)

    async def remove(self, client: AsyncGrpcClient, load: "Load") -> Measures:
        """Remove some, and from each answer on look out for them."""

        async def call(part: Sequence[int]) -> None:
            await client.remove_items(part)
            now = time.perf_counter()
            load.removed_at.update(dict.fromkeys(part, now))

        return await _timed(self.removed_ids.tolist(), call, REMOVED_AT_ONCE)

    def fresh(self) -> tuple[Int64s, Floats]:
        """Return the ids and the offline model's vectors [V, E] of all items that are left."""
        model = self.bundle.load_model()
        graph = ItemGraph(model.embedder).eval()
        attribute_NX = torch.zeros(self.added, model.config.max_attributes, dtype=torch.long)
        new_NE = graph(torch.full((self.added,), -1), attribute_NX, torch.from_numpy(self.content_NF))
        vector_VE = torch.cat([model.embedder.all_vectors(), new_NE]).numpy()
        id_V = np.concatenate([self.bundle.item_ids, FIRST_NEW + np.arange(self.added)])
        left_V = ~np.isin(id_V, self.removed_ids)
        return id_V[left_V], np.ascontiguousarray(vector_VE[left_V])


@dataclass(slots=True)
class Load:
    """Callers who ask for recommendations without a pause and without retries, and look at the answers."""

    url: str
    bundle: RandomBundle
    rest_s: float
    removed_at: dict[int, float] = field(default_factory=dict)
    """When the answer came that an item was removed, by id."""

    async def rest(self, client: AsyncGrpcClient) -> Measures:
        """Do nothing for a while."""
        del client
        await asyncio.sleep(self.rest_s)
        return {}

    async def during(self, work: Callable[[AsyncGrpcClient], Awaitable[Measures]]) -> Measures:
        """Return what was measured while something is done."""
        took_s: list[float] = []
        counts = {"requests failed": 0, "removed items returned": 0}
        new_items, is_over = 0, False
        async with AsyncGrpcClient(self.url, retry=RetryPolicy(attempts=1)) as client:

            async def ask(caller: int) -> None:
                nonlocal new_items
                draw = np.random.default_rng((SEED, caller))
                while not is_over:
                    request, began = self._request(draw), time.perf_counter()
                    try:
                        answer = await client.recommend(request)
                    except RecommendError:
                        counts["requests failed"] += 1
                        # Refusals come at once.
                        await asyncio.sleep(0.01)
                        continue
                    took_s.append(time.perf_counter() - began)
                    ids = [one.item_id for one in answer.recommendations]
                    gone = sum(self.removed_at.get(item_id, np.inf) < began for item_id in ids)
                    counts["removed items returned"] += gone
                    new_items += sum(item_id >= FIRST_NEW for item_id in ids)

            began = time.perf_counter()
            async with asyncio.TaskGroup() as callers:
                for caller in range(CALLERS):
                    callers.create_task(ask(caller))
                measured = await work(client)
                is_over = True
            seconds = time.perf_counter() - began
        p50, p99 = 1e3 * np.quantile(took_s or [np.nan], [0.5, 0.99])
        return {
            "requests, 1/s": len(took_s) / seconds,
            "p50, ms": float(p50),
            "p99, ms": float(p99),
            **{name: float(count) for name, count in counts.items()},
            "added items returned": float(new_items),
            **measured,
        }

    def _request(self, draw: np.random.Generator) -> RecommendRequest:
        number = draw.integers(len(self.bundle.item_ids), size=EVENTS)
        ids = (FIRST_ITEM + ITEM_STEP * number).tolist()
        events = [Event(item_id=one, actions=1, timestamp=1_700_000_000 + n) for n, one in enumerate(ids)]
        return RecommendRequest(user_id="load", history=events, num_results=self.bundle.num_results)


def found(bundle: RandomBundle, settings: ServingSettings, changes: Changes) -> Measures:
    """Return how much of what an index of all items that are left finds, built anew, the served search finds
    too, and how much of what is nearest each of them finds, for queries near random items."""
    loaded = LoadedBundle.open(bundle.folder)
    node, seen = AnnNode(loaded, settings), ServedItems.open(loaded, settings)
    id_V, vector_VE = changes.fresh()
    draw = np.random.default_rng(SEED)
    width = vector_VE.shape[1]
    near_QE = vector_VE[draw.integers(len(id_V), size=QUERIES)]
    query_QE = near_QE + NOISE * draw.normal(size=(QUERIES, width)) / np.sqrt(width)
    query_QE = (query_QE / np.linalg.norm(query_QE, axis=1, keepdims=True)).astype(np.float32)
    count = min(INDEX_TUNED_FOR, loaded.manifest.model.max_candidates)
    served = [seen.ids_of(row_K) for row_K in node.nearest(query_QE, count)]
    fresh = id_V[ItemSearch(build_index(loaded.manifest.index, vector_VE)).nearest(query_QE, count, NOTHING)]
    exact = id_V[np.argpartition(-query_QE @ vector_VE.T, count, axis=1)[:, :count]]
    removed = np.isin(np.concatenate(served), changes.removed_ids)
    return {
        "recall against a fresh index": _share(served, fresh),
        "recall against exact search": _share(served, exact),
        "recall of the fresh index": _share(fresh, exact),
        "removed items found": float(removed.sum()),
    }


def _share(found: Sequence[Int64s] | Int64s, right: Int64s) -> float:
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(right, found, strict=True)]))


async def _timed(changes: Sequence[Any], call: Callable[[Any], Awaitable[Any]], at_once: int) -> Measures:
    took_s, began = [], time.perf_counter()
    for first in range(0, len(changes), at_once):
        asked = time.perf_counter()
        await call(changes[first : first + at_once])
        took_s.append(time.perf_counter() - asked)
    rate = len(changes) / (time.perf_counter() - began)
    return {"items, 1/s": rate, "update p50, ms": 1e3 * float(np.median(took_s))}


def _processes(server: int) -> set[int]:
    return {server, *(child.pid for child in psutil.Process(server).children())}
