"""The shared causal transformer.

Shapes: B requests, N history positions, K candidates, X positions of several requests one after another,
L layers, H heads, D head width, C hidden width. Cached keys and values of one request are one tensor
[L, 2, H, N, D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.models.common.attention import (
    cached_candidate_attention,
    candidate_attention,
    causal_attention,
    continued_attention,
)
from unipinrec.models.config import ModelConfig

ROW_STEP = 4
"""Packed rows are padded to multiples of this, so that no lone last row takes another kernel. That keeps the
rounding of a request nearly the same in any batch; bit for bit it is on some processors only. More rows keep
it no better where it was tried, and are what a request pays whose history has a single new event."""


class PartedLinear(nn.Linear):
    """A linear layer that also gives some of its outputs without the cost of the others."""

    def part(self, features: Tensor, begin: int, end: int) -> Tensor:
        """Turn features [..., I] into outputs `begin` to `end - 1`, [..., end - begin]."""
        return F.linear(features, self.weight[begin:end], self.bias[begin:end])


class Block(nn.Module):
    """One pre-norm transformer layer, usable on histories, their continuations and candidates alike."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = PartedLinear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward_ratio * config.width),
            nn.GELU(),
            nn.Linear(config.feedforward_ratio * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def project(self, token_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each [B, H, N, D]."""
        batch, length, _ = token_BNC.shape
        qkv = self.qkv(self.attention_norm(token_BNC)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def keys_and_values(self, token_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `project` does without queries: all that later positions need of a last layer."""
        batch, length, width = token_BNC.shape
        both = self.qkv.part(self.attention_norm(token_BNC), width, 3 * width)
        key, value = both.view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def queries(self, token_BNC: Tensor) -> Tensor:
        """Return what `project` does without keys and values."""
        batch, length, width = token_BNC.shape
        query = self.qkv.part(self.attention_norm(token_BNC), 0, width)
        return query.view(batch, length, self.heads, -1).transpose(1, 2)

    def finish(self, token_BNC: Tensor, attended_BHND: Tensor) -> Tensor:
        """Add the attention output and the feed-forward network to the residual stream."""
        joined = attended_BHND.transpose(1, 2).flatten(2)
        token_BNC = token_BNC + self.dropout(self.output(joined))
        return token_BNC + self.dropout(self.feedforward(self.feedforward_norm(token_BNC)))


class Trunk(nn.Module):
    """All layers, and the passes over them (UniPinRec §1.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.row_step = ROW_STEP
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
        """Run over histories. Returns hidden states [B, N, C] and keys and values [L, 2, B, H, N, D]."""
        cached: list[Tensor] = []
        token_BNC = self.dropout(token_BNC)
        for block in self.blocks:
            query, key, value = block.project(token_BNC)
            cached.append(torch.stack([key, value]))
            token_BNC = block.finish(token_BNC, causal_attention(query, key, value))
        return self.norm(token_BNC), torch.stack(cached)

    def extended(
        self, token_XC: Tensor, first: list[int], cached: list[int], count: list[int], slots: list[Tensor]
    ) -> Tensor:
        """Run over events that continue cached ones; an empty cache makes it the pass over a history.

        Request b has `count[b]` tokens from row `first[b]` on, behind the `cached[b]` positions that its slot
        [L, 2, H, S, D] holds; their keys and values are written into the slot behind those. Rows that belong
        to no request are padding. Linear layers run over all rows, attention over each request's exact
        length, and of the last layer nothing but keys and values is computed for any but the last position.

        Returns hidden states [B', C] after each request's last position; B' is B rounded up to `ROW_STEP`.
        """
        last_B = torch.tensor([first[request] + count[request] - 1 for request in range(len(first))])
        last_B = F.pad(last_B, (0, -len(first) % self.row_step)).to(token_XC.device)
        token_1XC = token_XC.unsqueeze(0)
        for layer, block in enumerate(self.blocks):
            ends = layer + 1 == len(self.blocks)
            if ends:
                key, value = block.keys_and_values(token_1XC)
                token_1XC = token_1XC[:, last_B]
                query = block.queries(token_1XC)
            else:
                query, key, value = block.project(token_1XC)
            attended = torch.zeros_like(query)
            for request, slot in enumerate(slots):
                begin, new, past = first[request], count[request], cached[request]
                slot[layer, 0, :, past : past + new] = key[0, :, begin : begin + new]
                slot[layer, 1, :, past : past + new] = value[0, :, begin : begin + new]
                seen = slot[layer : layer + 1, :, :, : past + new]
                row, rows = (request, 1) if ends else (begin, new)
                attended[:, :, row : row + rows] = continued_attention(
                    query[:, :, row : row + rows], seen[:, 0], seen[:, 1]
                )
            token_1XC = block.finish(token_1XC, attended)
        return self.norm(token_1XC[0])

    def candidates(self, token_BKC: Tensor, past_L2BHND: Tensor, hidden_BKN: Tensor) -> Tensor:
        """Run over candidates and a padded batch of histories, as in training, of which `hidden_BKN` marks
        what a candidate must not see. Returns hidden states [B, K, C]."""
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_BKC)
            attended = candidate_attention(
                query, key, value, past_L2BHND[layer, 0], past_L2BHND[layer, 1], hidden_BKN
            )
            token_BKC = block.finish(token_BKC, attended)
        return self.norm(token_BKC)

    def candidates_over_slots(self, token_BKC: Tensor, past_L2HND: list[Tensor]) -> Tensor:
        """Run over candidates and one exact-length cache per request, read in place. Returns [B, K, C].

        Linear layers run over the whole batch; attention runs request by request, so neither padding
        nor a gathered copy of the caches is needed.
        """
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(token_BKC)
            attended: list[Tensor] = []
            for request, past in enumerate(past_L2HND):
                attended.append(
                    cached_candidate_attention(
                        query[request : request + 1],
                        key[request : request + 1],
                        value[request : request + 1],
                        past[layer : layer + 1, 0],
                        past[layer : layer + 1, 1],
                    )
                )
            token_BKC = block.finish(token_BKC, torch.cat(attended))
        return self.norm(token_BKC)
