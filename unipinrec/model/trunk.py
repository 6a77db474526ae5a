"""The shared causal transformer.

Shapes: B requests, N history positions, M appended positions, K candidates, L layers, H heads, D head width,
C hidden width. Cached keys and values of one request are one tensor [L, 2, H, N, D].
"""

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.model.attention import appended_attention, candidate_attention, causal_attention


class Block(nn.Module):
    """One pre-norm transformer layer, usable on histories, appended events and candidates alike."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward_ratio * config.width),
            nn.GELU(),
            nn.Linear(config.feedforward_ratio * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def project(self, token_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, H, N, D]."""
        batch, length, _ = token_BNC.shape
        qkv = self.qkv(self.attention_norm(token_BNC)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def finish(self, token_BNC: Tensor, attended_BHND: Tensor) -> Tensor:
        """Residual additions of the attention output and of the feed-forward network."""
        joined = attended_BHND.transpose(1, 2).flatten(2)
        token_BNC = token_BNC + self.dropout(self.output(joined))
        return token_BNC + self.dropout(self.feedforward(self.feedforward_norm(token_BNC)))


class Trunk(nn.Module):
    """All layers, and the three passes over them (UniPinRec §1.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self._start_near_identity()

    @torch.no_grad()
    def _start_near_identity(self) -> None:
        """Shrink what each layer adds at first, so that the sum over layers keeps the scale of one."""
        for name, weight in self.named_parameters():
            if name.endswith(("output.weight", "feedforward.2.weight")):
                weight.mul_((2 * len(self.blocks)) ** -0.5)

    def history(self, token_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Causal pass. Returns hidden states [B, N, C] and keys and values [L, 2, B, H, N, D]."""
        cached: list[Tensor] = []
        token_BNC = self.dropout(token_BNC)
        for block in self.blocks:
            query, key, value = block.project(token_BNC)
            cached.append(torch.stack([key, value]))
            token_BNC = block.finish(token_BNC, causal_attention(query, key, value))
        return self.norm(token_BNC), torch.stack(cached)

    def appended(
        self, token_BMC: Tensor, past_L2BHND: Tensor, past_length_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Causal pass over appended events only. Returns what `history` returns, for the M new positions."""
        cached: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_BMC)
            cached.append(torch.stack([key, value]))
            attended = appended_attention(
                query, key, value, past_L2BHND[layer, 0], past_L2BHND[layer, 1], past_length_B
            )
            token_BMC = block.finish(token_BMC, attended)
        return self.norm(token_BMC), torch.stack(cached)

    def candidates(self, token_BKC: Tensor, past_L2BHND: Tensor, hidden_BN: Tensor) -> Tensor:
        """Candidate pass over a padded batch of histories, as in training. Returns hidden [B, K, C]."""
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_BKC)
            attended = candidate_attention(
                query, key, value, past_L2BHND[layer, 0], past_L2BHND[layer, 1], hidden_BN
            )
            token_BKC = block.finish(token_BKC, attended)
        return self.norm(token_BKC)

    def candidates_over_slots(self, token_BKC: Tensor, past_L2HND: list[Tensor]) -> Tensor:
        """Candidate pass over one exact-length cache per request, read in place. Returns [B, K, C].

        Linear layers run over the whole batch; attention runs request by request, so neither padding
        nor a gathered copy of the caches is needed.
        """
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_BKC)
            token_BKC = block.finish(token_BKC, over_slots(layer, query, key, value, past_L2HND))
        return self.norm(token_BKC)

    def next_over_slots(self, token_B1C: Tensor, past_L2HND: list[Tensor]) -> tuple[Tensor, Tensor]:
        """One appended token per request over exact-length caches.

        Returns hidden states [B, 1, C] and the tokens' keys and values [L, 2, B, H, 1, D].
        """
        cached: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_B1C)
            cached.append(torch.stack([key, value]))
            token_B1C = block.finish(token_B1C, over_slots(layer, query, key, value, past_L2HND))
        return self.norm(token_B1C), torch.stack(cached)


def over_slots(
    layer: int, query_BHKD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, past_L2HND: list[Tensor]
) -> Tensor:
    """One layer's attention over each request's cache and each token's own key and value: [B, H, K, D]."""
    attended: list[Tensor] = []
    for request, past in enumerate(past_L2HND):
        attended.append(
            candidate_attention(
                query_BHKD[request : request + 1],
                key_BHKD[request : request + 1],
                value_BHKD[request : request + 1],
                past[layer, 0].unsqueeze(0),
                past[layer, 1].unsqueeze(0),
                None,
            )
        )
    return torch.cat(attended)
