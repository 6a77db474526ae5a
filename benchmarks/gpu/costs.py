"""Arithmetic and memory traffic of a forward, counted by formula: `torch.utils.flop_counter` counts the same
matrices, but also pairs of positions that the mask hides, and nothing that is compiled or captured.

With C the width, r the feed-forward ratio and A actions, multiplications and additions both counted:

- A layer's four matrices take 2 C^2 (3 + 1 + 2 r) FLOPs a token, its attention 4 C for each pair of positions
  that the mask lets see each other.
- A token's projection takes 2 C J FLOPs of its J joined features and 2 (A + 1) of each number of the action
  embedding; a candidate's head 2 A h (C + F) + 2 A F with h hidden units and F features of affinity.
- Affinity takes 2 E D (A + 2) FLOPs of each event and again of each candidate, E being the width of item
  vectors and D the half-lives; the query embedding twice what its layers hold, and 2 E of each candidate.

Bytes are the least that cross the card's memory: weights once; inputs and outputs of the four matrices and
of attention, (12 + 2 r) C numbers a token and layer; cached keys and values. What norms, residuals and masks
cost beyond that is not counted, and neither is an unseen pair that a kernel computes all the same.
"""

from dataclasses import dataclass
from itertools import chain

from torch import nn

from unipinrec.models.common.features import EventGap
from unipinrec.models.config import ModelConfig
from unipinrec.models.unified.served import ServedModel


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one launch."""

    linear_flops: int
    attention_flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of batches of equal rows."""

    model: ServedModel
    batch: int
    positions: int
    """Of each history, BOS among them."""
    candidates: int

    def prefill(self) -> Cost:
        """Return what history and candidates through every layer cost."""
        history, candidates = self.positions, self.candidates
        pairs = history * (history + 1) // 2 + candidates * (history + 1)
        return self._cost(history + candidates, pairs, scored=candidates)

    def decode(self, *, copied: bool = False) -> Cost:
        """Return what candidates over cached keys and values cost; a copy reads, writes and reads again."""
        pairs, cached = self.candidates * (self.positions + 1), (3 if copied else 1) * self.positions
        return self._cost(self.candidates, pairs, scored=self.candidates, cached=cached)

    def encode(self, new: int) -> Cost:
        """Return what the last `new` positions cost; of the last layer, one position goes all the way."""
        config, past = self.model.config, self.positions - new
        pairs = new * past + new * (new + 1) // 2
        whole = self._cost(new, pairs, cached=past)
        saved = 2 * config.width**2 * (2 + 2 * config.feedforward_ratio) * self.batch * (new - 1)
        unseen = attention_flops(config, self.batch * (pairs - self.positions))
        return Cost(whole.linear_flops - saved, whole.attention_flops - unseen, whole.bytes)

    def generate(self, steps: int) -> Cost:
        """Return what all steps after the first cost, without the retrieval head, which is small."""
        fed_back = steps - 1
        pairs = sum(self.positions + step + 1 for step in range(fed_back))
        once = self._cost(fed_back, pairs, cached=fed_back * self.positions)
        weights = (fed_back - 1) * weight_bytes(self.model)
        return Cost(once.linear_flops, once.attention_flops, once.bytes + weights)

    def _cost(self, tokens: int, pairs: int, *, scored: int = 0, cached: int = 0) -> Cost:
        """Of all rows, from the counts of each."""
        config, ratio = self.model.config, self.model.config.feedforward_ratio
        joined = config.item_dim + config.action_dim + 2 * len(config.time_periods_s) + EventGap.size
        layer = 2 * config.width**2 * (4 + 2 * ratio)
        token = 2 * joined * config.width + 2 * (config.num_actions + 1) * config.action_dim
        numbers = config.layers * config.width * (tokens * (12 + 2 * ratio) + 2 * cached)
        return Cost(
            self.batch * (tokens * (config.layers * layer + token) + self._heads(scored)),
            config.layers * attention_flops(config, self.batch * pairs),
            weight_bytes(self.model) + self.batch * numbers * self.model.trunk.norm.weight.element_size(),
        )

    def _heads(self, scored: int) -> int:
        """FLOPs of a request's candidates behind the trunk."""
        if not scored:
            return 0
        config = self.model.config
        actions, features = config.num_actions, self.model.ranking_head.affinity.size
        head = 2 * actions * config.head_hidden * (config.width + features) + 2 * actions * features
        near = 2 * config.item_dim * len(config.half_lives_s) * (actions + 2)
        layers = (one for one in self.model.retrieval_head.modules() if isinstance(one, nn.Linear))
        query = sum(2 * layer.weight.numel() for layer in layers)
        return scored * (head + near + 2 * config.item_dim) + (self.positions - 1) * near + query


def attention_flops(config: ModelConfig, pairs: int) -> int:
    """Return the FLOPs of so many pairs of positions in one layer."""
    return 4 * config.width * pairs


def weight_bytes(model: ServedModel) -> int:
    """Return the bytes of what a ranking forward reads whole, in the precision that it is kept in."""
    parts = (model.trunk, model.tokenizer.project, model.retrieval_head, model.ranking_head)
    held = chain.from_iterable((*part.parameters(), *part.buffers()) for part in parts)
    # Of the rates of all items, those of candidates are read.
    return sum(tensor.nbytes for tensor in held if tensor is not model.ranking_head.item_rate_VA)
