"""Answers of a second ranker by eager PyTorch without a server.

Shapes: R requests, C candidates of all requests, K of one, A actions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unipinrec.arrays import Int64s
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.sequences import sequences_of


class OfflineSecondRanker:
    """Ranking by one model, which reads of each request what its configuration allows."""

    def __init__(self, model: TransAct | TransActV2) -> None:
        self._model = model.eval()
        self._rates = model.heads.rates.kept()

    @torch.no_grad()
    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Tensor]:
        """Return probabilities [K, A] of each request's candidate rows [K]."""
        if not requests:
            return []
        batch = self.request_batch(requests, candidates).to(self._rates_device)
        probability_CA = torch.sigmoid(self._model(batch))
        return list(probability_CA.split([len(row_K) for row_K in candidates]))

    def request_batch(self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]) -> RequestBatch:
        """Return requests as the model takes them, with rates as they were at the end of training."""
        config = self._model.config
        sequences = sequences_of(requests, config)
        item_row_C = np.concatenate(candidates).astype(np.int64)
        offset_R1 = np.cumsum([0, *(len(row_K) for row_K in candidates)], dtype=np.int64)
        users = self._rates.users(sequences, config)
        return RequestBatch.of(sequences, item_row_C, offset_R1, users, self._rates.items(item_row_C))

    @property
    def _rates_device(self) -> torch.device:
        return self._model.heads.rates.prior_A.device
