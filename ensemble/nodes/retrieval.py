"""The `retrieval` node: encodes histories, into slots of a KV pool, and makes query embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.executors.engine import Engine
from ensemble.executors.generation import Asked, Queries
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool, PoolDirectory
from ensemble.kv.prefix_cache import PrefixCache, ScratchHistories
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.checks import check_between
from ensemble.nodes.contract import Arrays, stack, stamp_bundle, unstack_histories
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """One user's history, and what is wanted."""

    history: History
    asked: Asked


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the later nodes need of one encoded history."""

    queries: Queries
    handle: Handle


class RetrievalNode:
    """Owns this instance's KV pool; without `instance` it keeps nothing, as a model served alone does."""

    def __init__(
        self, loaded: LoadedBundle, settings: ServingSettings, engine: Engine, instance: str | None = None
    ) -> None:
        self._bundle = loaded
        self._engine = engine
        self._items = ServedItems.open(loaded, settings)
        model = loaded.manifest.model
        self._histories: PrefixCache | ScratchHistories
        if instance is None:
            self._histories = ScratchHistories(engine.encode, engine.private())
        else:
            layout = engine.layout(settings.pool_slots)
            others = PoolDirectory(settings.runtime_dir, engine)
            others.watch()
            self._histories = PrefixCache(
                engine.encode,
                KVPool(settings.runtime_dir, instance, layout, settings.lease_ms, engine),
                others,
                lambda history: EventChain(history, loaded.id, model.window_block),
            )
        engine.prepare(self._histories.storage, ("encode", "generate"))
        self.metrics = CollectorRegistry()
        self.metrics.register(self._histories)
        self.metrics.register(engine)

    def parse(self, arrays: Arrays) -> list[RetrievalRow]:
        """Return a row for each user of one request. Raises what `check_between` does."""
        check_between(arrays, self._bundle.manifest, item_rows=self._items.refresh().rows)
        return [
            RetrievalRow(
                history=history,
                asked=Asked(
                    request_time=int(arrays["REQUEST_TIME"][user, 0]),
                    surface=int(arrays["SURFACE"][user, 0]),
                    last_event_time=int(history.timestamp_N[-1]) if len(history) else 0,
                    num_results=int(arrays["NUM_RESULTS"][user, 0]),
                    outcome_weight_A=arrays["OUTCOME_WEIGHTS"][user],
                ),
            )
            for user, history in enumerate(unstack_histories(arrays))
        ]

    @torch.inference_mode()
    def run(self, rows: Sequence[RetrievalRow]) -> list[Retrieved]:
        """Return queries and handles after one forward for what is not cached; slots are complete then."""
        encoded = self._histories.encode([row.history for row in rows])
        queries = self._engine.generate(
            self._histories.storage, [row.asked for row in rows], [history.place for history in encoded]
        )
        return [Retrieved(made, history.handle) for made, history in zip(queries, encoded, strict=True)]

    def pack(self, rows: Sequence[Retrieved]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        return {
            "QUERY_EMBEDDINGS": stack([row.queries.vector_QE for row in rows], 0),
            "QUERY_BUDGETS": stack([row.queries.budget_Q for row in rows], 0),
            "QUERY_ORIGINS": stack([row.queries.origin_Q for row in rows], 0),
            "KV_HANDLE": np.stack([row.handle.to_array() for row in rows]),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def close(self) -> None:
        """Remove the pool."""
        self._histories.close()
