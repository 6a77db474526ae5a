"""Arithmetic and memory traffic of a forward, counted by formula.

With C the width, r the feed-forward ratio and A actions, multiplications and additions both counted:

- A layer's four matrices take 2 C^2 (3 + 1 + 2 r) FLOPs a token.
- A layer's attention takes 4 C FLOPs for each pair of positions that the mask lets see each other: C
  multiplications and additions for the score, and as many for the sum of values.
- A token's projection takes 2 C J FLOPs of its J joined features and 2 (A + 1) of each number of the action
  embedding; a candidate's head 2 C A h with h hidden units.

Bytes are the least that cross the card's memory: weights once; inputs and outputs of the four matrices and
of attention, (12 + 2 r) C numbers a token and layer; cached keys and values. What norms, residuals and masks
cost beyond that is not counted, and neither is an unseen pair that a kernel computes all the same.
"""

from dataclasses import dataclass
from itertools import chain

from unipinrec.models.common.features import EventGap
from unipinrec.models.config import ModelConfig
from unipinrec.models.unified.served import ServedModel


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one launch."""

    linear_flops: int
    attention_flops: int
    bytes: int

    @property
    def flops(self) -> int:
        """All of them."""
        return self.linear_flops + self.attention_flops


class Costs:
    """Of batches of `batch` rows, each with `positions` of history (BOS among them) and `candidates`."""

    def __init__(self, model: ServedModel, batch: int, positions: int, candidates: int) -> None:
        self._config = model.config
        self._weights = weight_bytes(model)
        self._number = model.trunk.norm.weight.element_size()
        self._batch = batch
        self._positions = positions
        self._candidates = candidates

    def prefill(self) -> Cost:
        """History and candidates through every layer."""
        history, candidates = self._positions, self._candidates
        pairs = history * (history + 1) // 2 + candidates * (history + 1)
        return self._cost(tokens=history + candidates, pairs=pairs, scored=candidates, cached=0)

    def decode(self, *, copied: bool) -> Cost:
        """Candidates over cached keys and values; a copy reads, writes and reads again."""
        reads = 3 if copied else 1
        pairs = self._candidates * (self._positions + 1)
        cached = reads * self._positions
        return self._cost(tokens=self._candidates, pairs=pairs, scored=self._candidates, cached=cached)

    def encode(self, new: int) -> Cost:
        """The last `new` positions of a history; of the last layer, only one position goes all the way."""
        past = self._positions - new
        pairs = new * past + new * (new + 1) // 2
        whole = self._cost(tokens=new, pairs=pairs, scored=0, cached=past)
        config = self._config
        width, rows = config.width, self._batch * (new - 1)
        saved = 2 * width * width * (2 + 2 * config.feedforward_ratio) * rows
        unseen = self._batch * (pairs - self._positions)
        return Cost(
            whole.linear_flops - saved, whole.attention_flops - attention_flops(config, unseen), whole.bytes
        )

    def generate(self, steps: int) -> Cost:
        """All steps after the first, one position each; the retrieval head, which is small, is left out."""
        fed_back = steps - 1
        pairs = sum(self._positions + step + 1 for step in range(fed_back))
        one = self._cost(tokens=fed_back, pairs=pairs, scored=0, cached=fed_back * self._positions)
        return Cost(one.linear_flops, one.attention_flops, one.bytes + (fed_back - 1) * self._weights)

    def _cost(self, *, tokens: int, pairs: int, scored: int, cached: int) -> Cost:
        """Of one row's numbers for all rows."""
        config, batch = self._config, self._batch
        linear = tokens * (config.layers * layer_flops(config) + token_flops(config))
        linear += scored * 2 * config.width * config.num_actions * config.head_hidden
        activations = tokens * (12 + 2 * config.feedforward_ratio)
        numbers = config.layers * config.width * (activations + 2 * cached)
        return Cost(
            batch * linear,
            config.layers * attention_flops(config, batch * pairs),
            self._weights + batch * numbers * self._number,
        )


def layer_flops(config: ModelConfig) -> int:
    """Of one token in one layer's matrices."""
    return 2 * config.width**2 * (4 + 2 * config.feedforward_ratio)


def attention_flops(config: ModelConfig, pairs: int) -> int:
    """Of so many pairs of positions in one layer."""
    return 4 * config.width * pairs


def token_flops(config: ModelConfig) -> int:
    """Of making one token."""
    joined = config.item_dim + config.action_dim + 2 * len(config.time_periods_s) + EventGap.size
    return 2 * joined * config.width + 2 * (config.num_actions + 1) * config.action_dim


def weight_bytes(model: ServedModel) -> int:
    """Of what a ranking forward reads whole, in the precision that it is kept in."""
    parts = (model.trunk, model.tokenizer.project, model.ranking_head)
    held = chain.from_iterable((*part.parameters(), *part.buffers()) for part in parts)
    return sum(tensor.nbytes for tensor in held)
