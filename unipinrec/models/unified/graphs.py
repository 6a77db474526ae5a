"""What a bundle holds of the unified model: four graphs that TorchScript compiles, and the weights in them.

Shapes: B requests, X positions of several requests one after another, S positions of a slot, T cached
positions, K candidates, A actions, L layers, H heads, D head width, E item width, C hidden width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unipinrec.models.common.exports import Exports, Graph
from unipinrec.models.common.item_graph import EMBEDDER, item_graph
from unipinrec.models.unified.both_heads import BothHeads
from unipinrec.models.unified.config import UnifiedConfig
from unipinrec.models.unified.files import ENCODER, RANKING_HEAD, RETRIEVAL_HEAD
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.served import ServedModel


class EncoderGraph(nn.Module):
    """Events to the hidden states after them; their keys and values go into the slots that they continue."""

    def __init__(self, model: UnifiedRecommender | ServedModel) -> None:
        super().__init__()
        self.tokenizer, self.trunk = model.tokenizer, model.trunk

    def forward(
        self,
        vector_XE: Tensor,
        actions_X: Tensor,
        masked_X: Tensor,
        timestamp_X: Tensor,
        previous_timestamp_X: Tensor,
        surface_X: Tensor,
        position_X: Tensor,
        first: list[int],
        cached: list[int],
        count: list[int],
        slots: list[Tensor],
    ) -> Tensor:
        """Continue the history in each slot [L, 2, H, S, D] by the request's events, in place.

        The tokens of all requests stand one after another: request b has `count[b]` from row `first[b]` on,
        behind the `cached[b]` positions that its slot holds. A whole history starts with position 0, BOS.
        A query embedding that is fed back is an event whose action is masked (PinRec §2.5).

        Returns hidden states [B', C] after each request's last position, B' being B rounded up to `ROW_STEP`;
        the same as encoding each whole history.
        """
        token_XC = self.tokenizer.packed(
            vector_XE, actions_X, masked_X, timestamp_X, previous_timestamp_X, surface_X, position_X
        )
        return self.trunk.extended(token_XC, first, cached, count, slots)


class RankingHeadGraph(nn.Module):
    """Candidates over cached histories to action probabilities."""

    def __init__(self, model: UnifiedRecommender | ServedModel) -> None:
        super().__init__()
        self.tokenizer, self.trunk, self.affinity = model.tokenizer, model.trunk, model.ranking_head.affinity
        self.heads = BothHeads(model)

    def forward(
        self,
        candidate_BKE: Tensor,
        item_row_BK: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        hidden_BC: Tensor,
        event_NE: list[Tensor],
        actions_N: list[Tensor],
        event_time_N: list[Tensor],
        past_L2HTD: list[Tensor],
    ) -> Tensor:
        """Return probabilities [B, K, A].

        `item_row_BK` are the candidates' rows in the bundle, -1 for those that it does not have. Each
        request brings the hidden state after its last event, the events themselves, and their cache
        [L, 2, H, T, D], exact in length.
        """
        time_B1, surface_B1 = timestamp_B.unsqueeze(1), surface_B.unsqueeze(1)
        token_BKC = self.tokenizer.candidates(candidate_BKE, time_B1, surface_B1)
        hidden_BKC = self.trunk.candidates_over_slots(token_BKC, past_L2HTD)
        affinities: list[Tensor] = []
        for request, event in enumerate(event_NE):
            actions_1N = actions_N[request].unsqueeze(0)
            affinities.append(
                self.affinity.of_requests(
                    candidate_BKE[request : request + 1],
                    timestamp_B[request : request + 1],
                    event.unsqueeze(0),
                    actions_1N,
                    event_time_N[request].unsqueeze(0),
                    torch.zeros_like(actions_1N, dtype=torch.bool),
                )
            )
        return self.heads(
            hidden_BKC,
            torch.cat(affinities),
            candidate_BKE,
            item_row_BK,
            timestamp_B,
            surface_B,
            hidden_BC,
        )


def unified_exports(model: UnifiedRecommender) -> Exports:
    """Return the graphs, compared with eager on a batch of the largest sizes and on one of the smallest."""
    config = model.config
    longest = config.max_history
    probes = [
        probe(config, lengths=(longest, 0, longest // 2), candidates=config.max_candidates, seed=1),
        probe(config, lengths=(1,), candidates=1, seed=2),
    ]
    graphs = {
        ENCODER: Graph(EncoderGraph(model), [drawn.encoder for drawn in probes]),
        RETRIEVAL_HEAD: Graph(model.retrieval_head, [drawn.retrieval_head for drawn in probes]),
        RANKING_HEAD: Graph(RankingHeadGraph(model), [drawn.ranking_head for drawn in probes]),
        EMBEDDER: item_graph(model.embedder),
    }
    # By the names that they have in `ServedModel`.
    weights = {name: weight for name, weight in model.state_dict().items() if "embedder" not in name}
    return Exports(graphs, weights, model.embedder.all_vectors())


@dataclass(frozen=True, slots=True)
class Probe:
    """Random inputs of every graph, for one batch size, history lengths and candidate count."""

    encoder: tuple[Tensor | list[int] | list[Tensor], ...]
    retrieval_head: tuple[Tensor, ...]
    ranking_head: tuple[Tensor | list[Tensor], ...]


def probe(config: UnifiedConfig, lengths: tuple[int, ...], candidates: int, seed: int) -> Probe:
    """Return random inputs in the ranges that serving sees."""
    draw = torch.Generator().manual_seed(seed)
    batch = len(lengths)

    def vectors(count: int) -> Tensor:
        return nn.functional.normalize(torch.randn(batch, count, config.item_dim, generator=draw), dim=-1)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=draw)

    cache_shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
    cache = torch.randn(batch, *cache_shape, generator=draw)
    caches = [cache[row, :, :, :, : length + 1] for row, length in enumerate(lengths)]
    now_B = 1_600_000_000 + integers(90_000, batch)
    surface_B = integers(config.num_surfaces, batch)
    # A third of each history is cached already, and BOS with it where anything is.
    cached = [length // 3 for length in lengths]
    count = [length + 1 - old for length, old in zip(lengths, cached, strict=True)]
    position_X = torch.cat([torch.arange(old, old + new) for old, new in zip(cached, count, strict=True)])
    packed = len(position_X)
    timestamp_X = 1_600_000_000 + integers(90_000, packed)
    return Probe(
        encoder=(
            vectors(packed)[0],
            integers(2**config.num_actions, packed),
            integers(10, packed) == 0,
            timestamp_X,
            timestamp_X - integers(90_000, packed),
            integers(config.num_surfaces, packed),
            position_X,
            [0, *torch.tensor(count).cumsum(0).tolist()][:-1],
            cached,
            count,
            caches,
        ),
        retrieval_head=(
            torch.randn(batch, config.width, generator=draw),
            now_B,
            surface_B,
            integers(config.num_actions + 1, batch),
            integers(len(config.time_offsets_s), batch),
        ),
        ranking_head=(
            vectors(candidates),
            integers(config.num_items, batch, candidates) - (integers(8, batch, candidates) == 0).long(),
            now_B,
            surface_B,
            torch.randn(batch, config.width, generator=draw),
            [vectors(length)[0] for length in lengths],
            [integers(2**config.num_actions, length) for length in lengths],
            [1_600_000_000 - integers(90 * 86_400, length) for length in lengths],
            caches,
        ),
    )
