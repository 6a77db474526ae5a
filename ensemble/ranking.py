"""The `ranking` node: candidates over the cached history to sorted, scored results.

Shapes: B rows of a batch, K candidates, L layers, H heads, T positions, D head width, E item width,
A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter
from torch import Tensor

from ensemble.contract import (
    PADDING,
    Arrays,
    Floats,
    Int64s,
    check_bundle,
    check_sizes,
    stack,
    stamp_bundle,
    unstack_histories,
)
from ensemble.encoding import HistoryEncoder, gather_vectors
from ensemble.kv_pool import Handle, MappedPool, PoolDirectory, slot_layout
from ensemble.loaded_bundle import LoadedBundle
from ensemble.prefix_cache import ScratchHistories
from ensemble.settings import ServingSettings
from unipinrec import bundle
from unipinrec.data.history import History

KV_SOURCES = ("prefill", "prefix", "recomputed")

CANDIDATE_STEP = 16
"""Candidate counts are padded to multiples of this: few shapes, the same kernels for the same candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRow:
    """One user's candidates, and the history to fall back on when the slot is gone."""

    candidate_row_K: Int64s
    origin_K: NDArray[np.int32]
    handle: Handle
    history: History
    request_time: int
    surface: int
    num_results: int
    utility_weight_A: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One user's answer, best first."""

    item_id_K: Int64s
    score_K: Floats
    probability_KA: Floats
    origin_K: NDArray[np.int32]
    kv_source: str
    """`prefill` when the slot was used, `prefix` when some of it was an earlier request's, `recomputed` when
    it was gone."""


class RankingNode:
    """Reads the retrieval node's slots in place, and encodes the history itself where there is none.

    Candidates come as item rows. Their vectors are those of `items.safetensors`, which were indexed: an index
    may hold them coarser.
    """

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        self._bundle = loaded
        self._vocabulary = loaded.vocabulary()
        layout = slot_layout(loaded.manifest.model, settings.pool_slots, settings.kv_precision)
        self._histories = ScratchHistories(HistoryEncoder.of(loaded, self._vocabulary), layout)
        self._graph = loaded.graph(bundle.RANKING_HEAD)
        self._pools = PoolDirectory(settings.runtime_dir)
        self.metrics = CollectorRegistry()
        self.metrics.register(self._histories)
        self._sources = Counter(
            "unipinrec_kv_source",
            "Users by where ranking had keys and values from",
            ["source"],
            registry=self.metrics,
        )
        for source in KV_SOURCES:
            self._sources.labels(source)

    def parse(self, arrays: Arrays) -> list[RankingRow]:
        """Rows of one request.

        Raises:
            InvalidInputError: more events or candidates than a request may have, or rows of no item.
            BundleMismatchError: another node of the graph served another bundle.
        """
        check_bundle(arrays, self._bundle.id)
        check_sizes(arrays, self._bundle.manifest.model)
        rows = []
        for user, history in enumerate(unstack_histories(arrays)):
            kept = arrays["CANDIDATE_ITEMS"][user] != PADDING
            rows.append(
                RankingRow(
                    candidate_row_K=arrays["CANDIDATE_ITEMS"][user][kept],
                    origin_K=arrays["CANDIDATE_ORIGINS"][user][kept],
                    handle=Handle.from_array(arrays["KV_HANDLE"][user]),
                    history=history,
                    request_time=int(arrays["REQUEST_TIME"][user, 0]),
                    surface=int(arrays["SURFACE"][user, 0]),
                    num_results=int(arrays["NUM_RESULTS"][user, 0]),
                    utility_weight_A=arrays["UTILITY_WEIGHTS"][user],
                )
            )
        return rows

    @torch.inference_mode()
    def run(self, rows: Sequence[RankingRow]) -> list[Ranked]:
        """One forward for all rows over their slots; rows whose slot is or becomes invalid are recomputed."""
        answers = self._from_slots(rows)
        stale = [place for place in range(len(rows)) if place not in answers]
        if stale:
            answers |= self._recomputed(rows, stale)
        for answer in answers.values():
            self._sources.labels(answer.kv_source).inc()
        return [answers[place] for place in range(len(rows))]

    def pack(self, rows: Sequence[Ranked]) -> dict[str, NDArray[Any]]:
        """The node's output tensors for one request."""
        return {
            "ITEM_IDS": stack([row.item_id_K for row in rows], PADDING),
            "SCORES": stack([row.score_K for row in rows], -np.inf),
            "ACTION_PROBS": stack([row.probability_KA for row in rows], 0),
            "RETRIEVED_BY": stack([row.origin_K for row in rows], 0),
            "KV_SOURCE": np.array([[row.kv_source.encode()] for row in rows], np.object_),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def close(self) -> None:
        """Nothing to release: the mapping ends with the process."""

    def _from_slots(self, rows: Sequence[RankingRow]) -> dict[int, Ranked]:
        """Answers by place in the batch, for the rows whose slot held before the forward and after it."""
        places, cached, pools = [], [], []
        for place, row in enumerate(rows):
            pool = self._pool_of(row)
            if pool is not None:
                places.append(place)
                cached.append(row)
                pools.append(pool)
        if not cached:
            return {}
        views = [pool.view(row.handle) for pool, row in zip(pools, cached, strict=True)]
        scored = self._score(cached, views)
        answers = {}
        for place, row, pool, probability_KA in zip(places, cached, pools, scored, strict=True):
            if pool.holds(row.handle):
                answers[place] = self._rank(row, probability_KA, "prefix" if row.handle.reused else "prefill")
                pool.release(row.handle)
        return answers

    def _recomputed(self, rows: Sequence[RankingRow], places: Sequence[int]) -> dict[int, Ranked]:
        """Answers by place in the batch, from histories that are encoded again."""
        chosen = [rows[place] for place in places]
        encoded = self._histories.encode([row.history for row in chosen])
        scored = self._score(chosen, [one.read_past() for one in encoded])
        return {
            place: self._rank(row, probability_KA, "recomputed")
            for place, row, probability_KA in zip(places, chosen, scored, strict=True)
        }

    def _pool_of(self, row: RankingRow) -> MappedPool | None:
        pool = self._pools.find(row.handle)
        usable = pool is not None and pool.holds(row.handle) and row.handle.length == len(row.history) + 1
        return pool if usable else None

    def _score(self, rows: Sequence[RankingRow], past_L2HTD: list[Tensor]) -> list[Floats]:
        """Action probabilities [K, A] of every row."""
        probability_BKA = self._graph(
            gather_vectors(self._vocabulary.vector_VE, [row.candidate_row_K for row in rows], CANDIDATE_STEP),
            torch.tensor([row.request_time for row in rows]),
            torch.tensor([row.surface for row in rows]),
            past_L2HTD,
        ).numpy()
        return [
            probability_KA[: len(row.candidate_row_K)]
            for row, probability_KA in zip(rows, probability_BKA, strict=True)
        ]

    def _rank(self, row: RankingRow, probability_KA: Floats, kv_source: str) -> Ranked:
        """Score by utility, sort by score and then item id, and cut to the results asked for."""
        score_K = (probability_KA * row.utility_weight_A).sum(axis=1)
        item_id_K = self._vocabulary.ids_of(row.candidate_row_K)
        order = np.lexsort((item_id_K, -score_K))[: row.num_results]
        return Ranked(
            item_id_K=item_id_K[order],
            score_K=score_K[order],
            probability_KA=probability_KA[order],
            origin_K=row.origin_K[order],
            kv_source=kv_source,
        )
