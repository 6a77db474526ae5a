"""SASRec (Kang and McAuley, 2018) with a full softmax, over this project's trunk.

Shapes: B requests, N events, E item width, C hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from unipinrec.models.common.history_model import HistoryModel, Reading
from unipinrec.models.common.history_objective import RetrievalObjective
from unipinrec.models.common.offline import OfflineRetriever
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import ModelConfig, RetrievalTraining
from unipinrec.models.spec import ModelSpec, blended_examples


class SASRec(HistoryModel):
    """Item ids and learned positions alone: no actions, times, surfaces, attributes or content.

    Query embeddings know neither request time nor surface nor outcome. Cosine scores with a learned
    temperature are this project's; the original takes plain inner products.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            config.model_copy(update={"num_attributes": 0, "max_attributes": 0, "content_dim": 0})
        )
        self.turn_items_into_tokens()
        self.retrieval_head = HiddenAlone(config)

    @override
    def read(self, events: Events) -> Reading:
        """Encode item ids in their order, and nothing else."""
        nothing_BN = torch.zeros_like(events.actions_BN)
        return super().read(Events(events.vector_BNE, nothing_BN, nothing_BN, nothing_BN, nothing_BN == 0))


class HiddenAlone(nn.Module):
    """A query embedding that is a linear map of the hidden state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.item_dim)

    def forward(
        self, hidden: Tensor, timestamp: Tensor, surface: Tensor, outcome: Tensor, offset: Tensor
    ) -> Tensor:
        """Turn hidden states [..., C] into unit vectors [..., E], whatever the request."""
        del timestamp, surface, outcome, offset
        return F.normalize(self.linear(hidden), dim=-1)


class SASRecTraining(RetrievalTraining):
    """SASRec's loss: the next item alone, contrasted with the whole catalogue."""

    full_softmax: bool = True
    outcome_probability: float = 0.0


SPEC = ModelSpec(
    name="sasrec",
    config=ModelConfig,
    training=SASRecTraining,
    make=SASRec,
    examples=blended_examples,
    objective=RetrievalObjective.of,
    offline=OfflineRetriever,
)
