"""Answers of a second ranker by eager PyTorch without a server.

Shapes: R requests, C candidates of all requests, K of one, A actions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unipinrec.arrays import Int64s
from unipinrec.data.sequences import sequences_of
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.parts import on_one_thread

LARGEST_FORWARD = 128
"""Candidates of one forward. TransAct V2 takes more memory, and more time for each, with more of them."""


class OfflineSecondRanker:
    """Ranking by one model, which reads of each request what its configuration allows."""

    def __init__(self, model: TransAct | TransActV2) -> None:
        self.model = model.eval()
        self.rates = model.heads.rates.kept()

    @torch.no_grad()
    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Tensor]:
        """Return probabilities [K, A] of each request's candidate rows [K], which may be none."""
        parts: list[list[Tensor]] = [[] for _ in requests]
        for group in _forwards([len(row_K) for row_K in candidates]):
            asked = [requests[place] for place, _ in group]
            chosen = [candidates[place][part] for place, part in group]
            batch = self.request_batch(asked, chosen).to(self._rates_device)
            with on_one_thread():
                probability_CA = torch.sigmoid(self.model(batch))
            sizes = [len(row_K) for row_K in chosen]
            for (place, _), part_KA in zip(group, probability_CA.split(sizes), strict=True):
                parts[place].append(part_KA)
        none_KA = torch.empty(0, self.model.config.num_actions)
        return [torch.cat(found) if found else none_KA for found in parts]

    def request_batch(self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]) -> RequestBatch:
        """Return requests as the model takes them, with rates as they were at the end of training."""
        config = self.model.config
        sequences = sequences_of(requests, config)
        item_row_C = np.concatenate(candidates).astype(np.int64)
        offset_R1 = np.cumsum([0, *(len(row_K) for row_K in candidates)], dtype=np.int64)
        users = self.rates.users(sequences, config)
        return RequestBatch.of(sequences, item_row_C, offset_R1, users, self.rates.items(item_row_C))

    @property
    def _rates_device(self) -> torch.device:
        return self.model.heads.rates.prior_A.device


def _forwards(counts: Sequence[int]) -> Iterator[list[tuple[int, slice]]]:
    """Yield which candidates of which requests are computed together; a request that fits is not cut."""
    group: list[tuple[int, slice]] = []
    filled = 0
    for place, count in enumerate(counts):
        for begin in range(0, count, LARGEST_FORWARD):
            size = min(LARGEST_FORWARD, count - begin)
            if filled + size > LARGEST_FORWARD:
                yield group
                group, filled = [], 0
            group.append((place, slice(begin, begin + size)))
            filled += size
    if group:
        yield group
