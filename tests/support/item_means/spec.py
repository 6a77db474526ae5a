"""Its loss, its offline use, what is exported of it, and the spec."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.item_means.module import ItemMeans, ItemMeansConfig
from unipinrec.config import TrainingConfig
from unipinrec.data.blended import BlendedBatch, BlendedConfig, BlendedDataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.exports import Exports, Graph
from unipinrec.models.common.objective import WHOLE, Losses, Objective, Share
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.spec import ModelSpec


class ItemMeansTraining(TrainingConfig):
    scale: float = 10.0


class NextItemLoss(Objective):
    """Softmax over the catalogue for the item that follows each history."""

    def __init__(self, model: ItemMeans, config: ItemMeansTraining) -> None:
        super().__init__(model)
        self.scale = config.scale

    def forward(self, batch: BlendedBatch, share: Share = WHOLE) -> Losses:
        assert isinstance(self.model, ItemMeans)
        target_B = batch.target_item_BT[torch.arange(len(batch.length_B)), batch.length_B]
        part = share.part(len(target_B))
        own_B = (target_B[part.rows] >= 0) & part.counted
        query_BE = self.model(batch.event_item_BN[part.rows][own_B])
        score_BV = self.scale * query_BE @ self.model.table.weight.T
        loss = F.cross_entropy(score_BV, target_B[part.rows][own_B], reduction="sum")
        loss = loss / (target_B >= 0).sum()
        return Losses(loss, {"next_item": loss})


class OfflineItemMeans:
    def __init__(self, model: ItemMeans) -> None:
        self._model = model

    @torch.no_grad()
    def retrieval_scores(self, requests: Sequence[OfflineRequest]) -> Tensor:
        rows = [torch.from_numpy(request.history.item_row_N)[None] for request in requests]
        query_BE = torch.cat([self._model(row_1N) for row_1N in rows])
        return query_BE @ self._model.item_vectors().T


def examples(interactions: InteractionDataset, config: ItemMeansConfig, seed: int) -> BlendedDataset:
    return BlendedDataset(interactions, BlendedConfig(max_history=config.max_history, seed=seed))


def exports(model: ItemMeans) -> Exports:
    calls = [(torch.arange(length)[None] - 1,) for length in (1, 7)]
    return Exports({"query.pt": Graph(model, calls)}, model.state_dict(), model.item_vectors())


SPEC = ModelSpec(
    name="item_means",
    config=ItemMeansConfig,
    training=ItemMeansTraining,
    make=ItemMeans,
    examples=examples,
    objective=lambda model, training, _: NextItemLoss(model, training),
    offline=OfflineItemMeans,
    exports=exports,
)
