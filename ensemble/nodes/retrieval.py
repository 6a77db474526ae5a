"""The `retrieval` node: encodes histories, into slots of a KV pool, and makes query embeddings."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.arrays import Floats
from ensemble.executors.engine import Engine
from ensemble.executors.generation import Asked, Queries
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool, PoolDirectory
from ensemble.kv.prefix_cache import PrefixCache, ScratchHistories
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.checks import check_between
from ensemble.nodes.contract import Arrays, stack
from ensemble.nodes.encoded import encoded_to_bytes
from ensemble.nodes.forgetting import Forgetting
from ensemble.nodes.seal import KV_HANDLE, QUERY_SEAL, SEALED_HISTORY, Opened, Seal
from ensemble.nodes.sealed_history import SealedHistory
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """One user's history, and what is wanted."""

    token: bytes
    history: History
    owner: bytes
    asked: Asked


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the later nodes need of one encoded history."""

    token: bytes
    queries: Queries
    handle: Handle
    hidden_C: Floats


class RetrievalNode:
    """Owns this instance's KV pool; without `instance` it keeps nothing, as a model served alone does."""

    def __init__(
        self, loaded: LoadedBundle, settings: ServingSettings, engine: Engine, instance: str | None = None
    ) -> None:
        self._bundle = loaded
        self._seal = Seal(settings, loaded.id)
        self._engine = engine
        self._items = ServedItems.open(loaded, settings)
        model = loaded.manifest.model
        # Whoever computes, or wipes what others computed.
        self._alone = threading.Lock()
        self._forgetting: Forgetting | None = None
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
                lambda history, owner: EventChain(history, loaded.id, model.window_block, owner),
            )
        engine.prepare(self._histories.storage, ("encode", "generate"))
        self.metrics = CollectorRegistry()
        self.metrics.register(self._histories)
        self.metrics.register(engine)

    def parse(self, arrays: Arrays) -> list[RetrievalRow]:
        """Return a row for each user of one request. Raises what `Seal.open` and `check_between` do."""
        opened = self._seal.open(arrays, SEALED_HISTORY)
        self._items.refresh()
        check_between(arrays, self._bundle.manifest)
        return [self._row(arrays, user, row) for user, row in enumerate(opened)]

    def follow_deletions(self, settings: ServingSettings) -> None:
        """Wipe what is kept of users who are deleted from the store, in a thread, until `close`. This process
        must not have the store open yet."""
        again_s = settings.lease_ms / 1000
        self._forgetting = Forgetting(settings, self.forget, again_s)
        self._forgetting.watch()

    @torch.inference_mode()
    def forget(self, owners: Collection[bytes]) -> None:
        """Wipe what is kept of owners, between two batches."""
        with self._alone:
            self._histories.forget(owners)

    @torch.inference_mode()
    def run(self, rows: Sequence[RetrievalRow]) -> list[Retrieved]:
        """Return queries and handles after one forward for what is not cached; slots are complete then."""
        with self._alone:
            encoded = self._histories.encode([row.history for row in rows], [row.owner for row in rows])
            queries = self._engine.generate(
                self._histories.storage, [row.asked for row in rows], [history.place for history in encoded]
            )
            states = [self._histories.storage.hidden(history.place.slot) for history in encoded]
            hidden_BC = torch.stack(states).cpu().numpy()
        return [
            Retrieved(row.token, made, history.handle, hidden_C)
            for row, made, history, hidden_C in zip(rows, queries, encoded, hidden_BC, strict=True)
        ]

    def pack(self, rows: Sequence[Retrieved]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        tokens = [row.token for row in rows]
        made = {
            "QUERY_EMBEDDINGS": stack([row.queries.vector_QE for row in rows], 0),
            "QUERY_BUDGETS": stack([row.queries.budget_Q for row in rows], 0),
            "QUERY_ORIGINS": stack([row.queries.origin_Q for row in rows], 0),
        }
        return {
            **made,
            **self._seal.close(QUERY_SEAL, tokens, beside=made),
            **self._seal.close(
                KV_HANDLE, tokens, [encoded_to_bytes(row.handle, row.hidden_C) for row in rows]
            ),
        }

    def close(self) -> None:
        """Remove the pool, and follow deletions no longer."""
        if self._forgetting is not None:
            self._forgetting.close()
        self._histories.close()

    def _row(self, arrays: Arrays, user: int, opened: Opened) -> RetrievalRow:
        sealed = SealedHistory.from_bytes(opened.content[SEALED_HISTORY])
        times = sealed.history.timestamp_N
        asked = Asked(
            request_time=sealed.request_time,
            surface=sealed.surface,
            last_event_time=int(times[-1]) if len(times) else 0,
            num_results=int(arrays["NUM_RESULTS"][user, 0]),
            outcome_weight_A=arrays["OUTCOME_WEIGHTS"][user],
        )
        return RetrievalRow(opened.token, sealed.history, sealed.owner, asked)
