"""What is read off a hidden state: a query embedding, or one logit per action.

Shapes: ... any leading axes, B requests, C hidden width, E item width, A actions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.model.features import AbsoluteTime


class RetrievalHead(nn.Module):
    """Hidden state and the next request's time and surface to a unit query embedding (PinRec §2.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.absolute_time = AbsoluteTime()
        self.surface = nn.Embedding(config.num_surfaces, config.width)
        nn.init.normal_(self.surface.weight, std=0.02)
        self.mlp = nn.Sequential(
            nn.Linear(config.width + AbsoluteTime.size, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.item_dim),
        )

    def forward(self, hidden: Tensor, timestamp: Tensor, surface: Tensor) -> Tensor:
        """Hidden states [..., C], request times and surfaces [...] to unit vectors [..., E]."""
        time = self.absolute_time(timestamp, hidden.dtype)
        return F.normalize(self.mlp(torch.cat([hidden + self.surface(surface), time], dim=-1)), dim=-1)


class RankingHead(nn.Module):
    """One MLP per action, each giving one logit (UniPinRec §1.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_actions = config.num_actions
        self.inner = nn.Linear(config.width, config.num_actions * config.head_hidden)
        self.outer = nn.Parameter(
            torch.randn(config.num_actions, config.head_hidden) * config.head_hidden**-0.5
        )
        self.bias = nn.Parameter(torch.zeros(config.num_actions))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., C] to logits [..., A]."""
        inner = F.gelu(self.inner(hidden)).unflatten(-1, [self.num_actions, -1])
        return (inner * self.outer).sum(-1) + self.bias
