"""The `ranking` node: candidates over the cached history to the probability of each action.

Shapes: K candidates, A actions, C hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.executors.engine import Engine, ScoringRow
from ensemble.kv.pool import Handle, MappedPool, PoolDirectory
from ensemble.kv.prefill import CachedSequence
from ensemble.kv.prefix_cache import ScratchHistories
from ensemble.kv.slot_storage import SlotStorage
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import Arrays, stack
from ensemble.nodes.encoded import encoded_from_bytes
from ensemble.nodes.metrics import with_series
from ensemble.nodes.seal import CANDIDATE_SEAL, KV_HANDLE, PROBS_SEAL, SEALED_HISTORY, Seal
from ensemble.nodes.sealed_history import SealedHistory
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec.data.history import History

KV_SOURCES = ("prefill", "prefix", "recomputed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRow:
    """One user's candidates, and the history to fall back on when the slot is gone."""

    token: bytes
    candidate_row_K: Int64s
    handle: Handle
    hidden_C: Floats
    """After the last event of the history, as retrieval had it."""
    history: History
    request_time: int
    surface: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """The action probabilities of one user's candidates, in the order of the candidates."""

    token: bytes
    probability_KA: Floats
    kv_source: str
    """`prefill` when the slot was used, `prefix` when some of it was an earlier request's, `recomputed` when
    it was gone."""


class RankingNode:
    """Reads the retrieval node's slots in place, and encodes the history itself where there is none."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, engine: Engine) -> None:
        self._seal = Seal(settings, loaded.id)
        self._engine = engine
        self._items = ServedItems.open(loaded, settings)
        self._histories = ScratchHistories(engine.encode, engine.private())
        engine.prepare(self._histories.storage, ("encode", "score"))
        self._pools = PoolDirectory(settings.runtime_dir, engine)
        self._pools.watch()
        for pool in self._pools.wait(engine.pool_wait_s):
            engine.prepare(pool.storage, ("score",))
        self.metrics = CollectorRegistry()
        self.metrics.register(self._histories)
        self.metrics.register(engine)
        text = "Users by where ranking had keys and values from"
        sources = Counter("unipinrec_kv_source", text, ["source"], registry=self.metrics)
        self._sources = with_series(sources, KV_SOURCES)

    def parse(self, arrays: Arrays) -> list[RankingRow]:
        """Return a row for each user of one request. Raises what `Seal.open` does."""
        self._items.refresh()
        rows = []
        for user, opened in enumerate(self._seal.open(arrays, SEALED_HISTORY, KV_HANDLE, CANDIDATE_SEAL)):
            sealed = SealedHistory.from_bytes(opened.content[SEALED_HISTORY])
            item_row_K = arrays["CANDIDATE_ITEMS"][user]
            handle, hidden_C = encoded_from_bytes(opened.content[KV_HANDLE])
            rows.append(
                RankingRow(
                    token=opened.token,
                    candidate_row_K=item_row_K[item_row_K != PADDING],
                    handle=handle,
                    hidden_C=hidden_C,
                    history=sealed.history,
                    request_time=sealed.request_time,
                    surface=sealed.surface,
                )
            )
        return rows

    @torch.inference_mode()
    def run(self, rows: Sequence[RankingRow]) -> list[Ranked]:
        """Return answers, from the slots by one forward; rows whose slot is or becomes invalid recompute."""
        answers = self._from_slots(rows)
        stale = [place for place in range(len(rows)) if place not in answers]
        if stale:
            answers |= self._recomputed(rows, stale)
        for answer in answers.values():
            self._sources.labels(answer.kv_source).inc()
        return [answers[place] for place in range(len(rows))]

    def pack(self, rows: Sequence[Ranked]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        made = {"CANDIDATE_PROBS": stack([row.probability_KA for row in rows], 0)}
        return {
            **made,
            **self._seal.close(PROBS_SEAL, [row.token for row in rows], beside=made),
            "KV_SOURCE": np.array([[row.kv_source.encode()] for row in rows], np.object_),
        }

    def close(self) -> None:
        """Look after pools no longer; what is mapped ends with the process."""
        self._pools.close()

    def _from_slots(self, rows: Sequence[RankingRow]) -> dict[int, Ranked]:
        """Answers by place in the batch, for the rows whose slot held before the forward and after it."""
        held = [(place, row, pool) for place, row in enumerate(rows) if (pool := self._pool_of(row))]
        if not held:
            return {}
        scored = self._engine.score(
            [
                _scoring(row, pool.storage, CachedSequence(row.handle.slot, row.handle.length))
                for _, row, pool in held
            ]
        )
        answers = {}
        for (place, row, pool), probability_KA in zip(held, scored, strict=True):
            if pool.holds(row.handle):
                answers[place] = Ranked(
                    row.token, probability_KA, "prefix" if row.handle.reused else "prefill"
                )
                pool.release(row.handle)
        return answers

    def _recomputed(self, rows: Sequence[RankingRow], places: Sequence[int]) -> dict[int, Ranked]:
        """Answers by place in the batch, from histories that are encoded again."""
        chosen = [rows[place] for place in places]
        encoded = self._histories.encode([row.history for row in chosen])
        storage = self._histories.storage
        scored = self._engine.score(
            [_scoring(row, storage, history.place) for row, history in zip(chosen, encoded, strict=True)]
        )
        return {
            place: Ranked(rows[place].token, probability_KA, "recomputed")
            for place, probability_KA in zip(places, scored, strict=True)
        }

    def _pool_of(self, row: RankingRow) -> MappedPool | None:
        pool = self._pools.find(row.handle)
        usable = pool is not None and pool.holds(row.handle) and row.handle.length == len(row.history) + 1
        return pool if usable else None


def _scoring(row: RankingRow, storage: SlotStorage, place: CachedSequence) -> ScoringRow:
    asked = row.candidate_row_K, row.request_time, row.surface
    return ScoringRow(storage, place, *asked, row.history, row.hidden_C)
