"""What is read off a hidden state: a query embedding, or one logit per action.

Shapes: ... any leading axes, B requests, C hidden width, E item width, A actions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.models.common.affinity import Affinity
from unipinrec.models.common.features import AbsoluteTime
from unipinrec.models.common.projection import Projection
from unipinrec.models.common.rates.base_rates import BaseRates
from unipinrec.models.config import JointConfig, ModelConfig


class RetrievalHead(nn.Module):
    """Hidden state, request context, wanted outcome and time offset to a unit query embedding.

    The trunk knows neither outcome nor offset: both are learned embeddings that join here (PinRec §2.4 and
    §2.5; that they are added to the hidden state is our choice).
    """

    def __init__(self, config: ModelConfig, time_offsets: int = 1) -> None:
        super().__init__()
        self.absolute_time = AbsoluteTime(config.time_periods_s)
        self.surface = nn.Embedding(config.num_surfaces, config.width)
        self.outcome = nn.Embedding(config.num_actions + 1, config.width)
        self.offset = nn.Embedding(time_offsets, config.width)
        for table in (self.surface, self.outcome, self.offset):
            nn.init.normal_(table.weight, std=0.02)
        self.project = Projection(config.width + self.absolute_time.size, config.width, config.item_dim)

    def forward(
        self, hidden: Tensor, timestamp: Tensor, surface: Tensor, outcome: Tensor, offset: Tensor
    ) -> Tensor:
        """Return vectors [..., E] of hidden states [..., C], request times, surfaces, outcomes and offsets.

        Outcome A asks for no action in particular.
        """
        # A trunk of fewer bits must not take the request's time down with it.
        hidden = hidden.to(self.surface.weight.dtype)
        asked = hidden + self.surface(surface) + self.outcome(outcome) + self.offset(offset)
        time = self.absolute_time(timestamp, hidden.dtype)
        return F.normalize(self.project(torch.cat([asked, time], dim=-1)), dim=-1)


class RankingHead(nn.Module):
    """One MLP per action, each giving one logit (UniPinRec §1.4), beside what is known without a trunk.

    A logit starts as the item's base rate and retrieval's similarity to the user; the MLPs, which also read
    the affinity to what the user did, learn what remains.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.num_actions = config.num_actions
        self.affinity = Affinity(config)
        self.inner = nn.Linear(config.width + self.affinity.size, config.num_actions * config.head_hidden)
        self.outer = nn.Parameter(
            torch.randn(config.num_actions, config.head_hidden) * config.head_hidden**-0.5
        )
        self.bias = nn.Parameter(torch.zeros(config.num_actions))
        self.wide = nn.Linear(self.affinity.size, config.num_actions, bias=False)
        nn.init.zeros_(self.wide.weight)
        self.rate_weight_A = nn.Parameter(torch.ones(config.num_actions))
        self.similarity_weight_A = nn.Parameter(torch.full((config.num_actions,), config.similarity_weight))
        self.dropout = nn.Dropout(config.dropout)
        self.item_rate_VA: Tensor = nn.Buffer(torch.zeros(config.num_items, config.num_actions))

    @torch.no_grad()
    def keep(self, rates: BaseRates) -> None:
        """Start from base rates: the global ones, and those of items as they are at the end of training."""
        self.affinity.keep(rates)
        self.bias.copy_(torch.from_numpy(rates.prior_A))
        self.item_rate_VA.copy_(torch.from_numpy(rates.item_rate_VA + rates.attribute_rate_VA))

    def item_rates(self, item_row: Tensor) -> Tensor:
        """Return the log-odds [..., A] of item rows [...] less the global ones; 0 for the row -1."""
        return self.item_rate_VA[item_row.clamp(min=0)] * (item_row >= 0).unsqueeze(-1)

    def forward(self, hidden: Tensor, affinity: Tensor, rate: Tensor, similarity: Tensor) -> Tensor:
        """Turn hidden states [..., C], features of `affinity` [..., F], item rates [..., A] and similarities
        [..., 1] into logits [..., A]."""
        known = rate * self.rate_weight_A + similarity * self.similarity_weight_A
        known = known + self.bias + self.wide(affinity)
        joined = torch.cat([hidden, affinity.to(hidden.dtype)], dim=-1)
        # The sum over hidden units is in the dtype of its weights, which may be finer than the trunk's.
        inner = F.gelu(self.inner(joined).to(self.outer.dtype)).unflatten(-1, [self.num_actions, -1])
        return (self.dropout(inner) * self.outer).sum(-1) + known
