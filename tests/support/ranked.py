"""Candidates ranked as a server's graph ranks them, by the eager model.

Shapes: B requests, K candidates, A actions, C hidden width, E item width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.graphs import RankingHeadGraph
from unipinrec.models.unified.module import UnifiedRecommender


def ranked(
    model: UnifiedRecommender,
    candidates: tuple[Tensor, Tensor],
    context: tuple[Tensor, Tensor],
    events: Events,
    lengths: Sequence[int],
) -> Tensor:
    """Return probabilities [B, K, A] of candidates, which are vectors and rows, at times and surfaces [B],
    over the first events of padded histories. An event that is masked is not told to ranking."""
    hidden_BTC, past_L2BHTD = model.encode(events)
    rows = range(len(lengths))
    kept = [~events.masked_BN[b, : lengths[b]] for b in rows]
    columns = (events.vector_BNE, events.actions_BN, events.timestamp_BN)
    probability_BKA: Tensor = RankingHeadGraph(model)(
        *candidates,
        *context,
        hidden_BTC[torch.arange(len(lengths)), torch.tensor(lengths)],
        *([column[b, : lengths[b]][kept[b]] for b in rows] for column in columns),
        [past_L2BHTD[:, :, b, :, : lengths[b] + 1] for b in rows],
    )
    return probability_BKA
