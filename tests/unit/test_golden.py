"""The golden rules of the model, in float64 to 1e-9.

The reference is a dense forward written here: plain loops over layers, one explicit (n + k) x (n + k) mask
and softmax by hand. It shares weights and token inputs with the model, and none of its attention code.
"""

import pytest
import torch
from torch import Tensor

from unipinrec.config import ModelConfig, preset
from unipinrec.model import UnifiedRecommender
from unipinrec.model.trunk import Block

TOLERANCE = 1e-9
LENGTHS = (0, 1, 7, 16)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """Every option of the inputs is on."""
    sizes = preset("tiny", num_items=50, num_actions=3, num_surfaces=2)
    options = {
        "id_hashes": 2, "id_rows": 20, "num_attributes": 6, "max_attributes": 3, "attribute_dim": 8,
        "content_dim": 5, "time_offsets_s": (0, 60, 3600),
    }  # fmt: skip
    return ModelConfig.model_validate(sizes.model_dump() | options)


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> UnifiedRecommender:
    torch.manual_seed(7)
    model = UnifiedRecommender(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.embedder.attribute_VX.copy_(torch.randint(7, (50, 3)))
    model.embedder.content_VF.copy_(torch.randn(50, 5))
    model.embedder.cold_V[::7] = True
    return model


class Case:
    """Four requests of different lengths in one padded batch, with poison in the padding."""

    def __init__(self, model: UnifiedRecommender, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        config = model.config
        shape = (len(LENGTHS), config.max_history)
        self.length_B = torch.tensor(LENGTHS)
        padding_BN = torch.arange(config.max_history) >= self.length_B.unsqueeze(1)
        item_BN = torch.randint(config.num_items, shape, generator=draw)
        self.vector_BNE = model.embedder(item_BN).detach()
        self.vector_BNE[padding_BN] = 1e3
        self.actions_BN = torch.randint(2**config.num_actions, shape, generator=draw)
        self.masked_BN = torch.rand(shape, generator=draw) < 0.3
        self.timestamp_BN = 880_000_000 + torch.randint(9_999, shape, generator=draw).cumsum(1)
        self.surface_BN = torch.randint(config.num_surfaces, shape, generator=draw)
        candidate_BK = torch.randint(config.num_items, (len(LENGTHS), 9), generator=draw)
        self.candidate_BKE = model.embedder(candidate_BK).detach()
        self.time_B = torch.full((len(LENGTHS),), 880_200_000)
        self.surface_B = torch.tensor([0, 1, 1, 0])

    def encode(self, model: UnifiedRecommender, masked: bool = True) -> tuple[Tensor, Tensor]:
        return model.encode(
            self.vector_BNE,
            self.actions_BN,
            self.timestamp_BN,
            self.surface_BN,
            self.masked_BN if masked else None,
        )

    def score(self, model: UnifiedRecommender, candidate_BKE: Tensor | None = None) -> Tensor:
        _, past = self.encode(model)
        caches = [past[:, :, b, :, : n + 1] for b, n in enumerate(LENGTHS)]
        chosen = self.candidate_BKE if candidate_BKE is None else candidate_BKE
        return model.score(chosen, self.time_B, self.surface_B, caches)


def dense_layer(block: Block, token_XC: Tensor, seen_XX: Tensor) -> Tensor:
    """One pre-norm layer over one sequence, with an explicit mask and a softmax written out."""
    norm = block.attention_norm
    mean, variance = token_XC.mean(-1, keepdim=True), token_XC.var(-1, unbiased=False, keepdim=True)
    normal_XC = (token_XC - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    width = token_XC.size(-1)
    head_width = width // block.heads
    joined = normal_XC @ block.qkv.weight.T + block.qkv.bias
    attended = torch.empty_like(token_XC)
    for head in range(block.heads):
        columns = slice(head * head_width, (head + 1) * head_width)
        query = joined[:, :width][:, columns]
        key = joined[:, width : 2 * width][:, columns]
        value = joined[:, 2 * width :][:, columns]
        weight = (query @ key.T / head_width**0.5).exp() * seen_XX
        attended[:, columns] = weight / weight.sum(-1, keepdim=True) @ value
    token_XC = token_XC + attended @ block.output.weight.T + block.output.bias
    return token_XC + block.feedforward(block.feedforward_norm(token_XC))


def dense_logits(model: UnifiedRecommender, case: Case, request: int) -> Tensor:
    """Action logits [K, A] of one request by a dense forward over [BOS, history, candidates]."""
    n = LENGTHS[request]
    one = slice(request, request + 1)
    zero = torch.zeros(1, dtype=torch.long)
    event_NC = model.tokenizer.events(
        case.vector_BNE[one, :n],
        case.actions_BN[one, :n],
        case.masked_BN[one, :n],
        case.timestamp_BN[one, :n],
        case.surface_BN[one, :n],
        zero,
        zero,
    )[0]
    candidate_KC = model.tokenizer.candidates(case.candidate_BKE[one], case.time_B[one], case.surface_B[one])[
        0
    ]
    token_XC = torch.cat([model.tokenizer.begin(1)[0], event_NC, candidate_KC])
    k, t = len(candidate_KC), n + 1
    seen_XX = torch.eye(t + k, dtype=torch.bool)
    seen_XX[:t, :t] = torch.ones(t, t).tril().bool()
    seen_XX[t:, :t] = True
    for block in model.trunk.blocks:
        assert isinstance(block, Block)
        token_XC = dense_layer(block, token_XC, seen_XX)
    return model.ranking_head(model.trunk.norm(token_XC)[t:])


@pytest.mark.parametrize("seed", range(3))
def test_cached_scores_equal_a_dense_masked_forward(model: UnifiedRecommender, seed: int) -> None:
    case = Case(model, seed)
    _, past = case.encode(model)
    cached = case.score(model)
    padded = model.score_padded(case.candidate_BKE, case.time_B, case.surface_B, past, case.length_B)
    for request in range(len(LENGTHS)):
        dense = dense_logits(model, case, request)
        assert (cached[request] - dense).abs().max() < TOLERANCE
        assert (padded[request] - dense).abs().max() < TOLERANCE


def test_scores_ignore_the_order_and_the_company_of_candidates(model: UnifiedRecommender) -> None:
    case = Case(model, 1)
    together = case.score(model)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 7, 3, 5])
    permuted = case.score(model, case.candidate_BKE[:, order])
    assert (permuted - together[:, order]).abs().max() < TOLERANCE
    for kept in ([3], [0, 8], [1, 2, 5, 7]):
        alone = case.score(model, case.candidate_BKE[:, kept])
        assert (alone - together[:, kept]).abs().max() < TOLERANCE


def test_changing_a_masked_action_changes_nothing(model: UnifiedRecommender) -> None:
    case = Case(model, 2)
    hidden, past = case.encode(model)
    other = Case(model, 2)
    other.actions_BN = torch.where(other.masked_BN, 7 - other.actions_BN, other.actions_BN)
    assert not torch.equal(other.actions_BN, case.actions_BN)
    other_hidden, other_past = other.encode(model)
    assert torch.equal(hidden, other_hidden)
    assert torch.equal(past, other_past)
    unmasked, _ = other.encode(model, masked=False)
    assert (unmasked - case.encode(model, masked=False)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("appended", [1, 3, 16])
def test_prefix_reuse_equals_recomputation(model: UnifiedRecommender, appended: int) -> None:
    case = Case(model, 3)
    n = model.config.max_history
    case.vector_BNE = model.embedder(torch.arange(n).expand(len(LENGTHS), n)).detach()
    hidden, past = case.encode(model, masked=False)
    start = n - appended
    zero_B = torch.zeros(len(LENGTHS), dtype=torch.long)
    poisoned = torch.full_like(past, 1e3)
    poisoned[:, :, :, :, : start + 1] = past[:, :, :, :, : start + 1]
    new_hidden, new_past = model.append(
        case.vector_BNE[:, start:],
        case.actions_BN[:, start:],
        case.timestamp_BN[:, start:],
        case.surface_BN[:, start:],
        case.timestamp_BN[:, start - 1] if start else zero_B,
        poisoned,
        zero_B + start + 1,
    )
    assert (new_hidden - hidden[:, start + 1 :]).abs().max() < TOLERANCE
    assert (new_past - past[:, :, :, :, start + 1 :]).abs().max() < TOLERANCE


def test_appending_events_changes_no_earlier_key_or_value(model: UnifiedRecommender) -> None:
    case = Case(model, 4)
    _, long = case.encode(model)
    for n in (0, 1, 9):
        _, short = model.encode(
            case.vector_BNE[:, :n],
            case.actions_BN[:, :n],
            case.timestamp_BN[:, :n],
            case.surface_BN[:, :n],
            case.masked_BN[:, :n],
        )
        assert (short - long[:, :, :, :, : n + 1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("steps", [1, 3])
def test_feeding_back_equals_encoding_masked_events_and_leaves_ranking_alone(
    model: UnifiedRecommender, steps: int
) -> None:
    case = Case(model, 5)
    before = case.score(model)
    _, past = case.encode(model, masked=False)
    caches = [past[:, :, b, :, : n + 1].clone() for b, n in enumerate(LENGTHS)]
    untouched = [cache.clone() for cache in caches]
    previous_B = torch.stack(
        [case.timestamp_BN[b, n - 1] if n else case.time_B[b] for b, n in enumerate(LENGTHS)]
    )
    grown = list(caches)
    fed_BSE = case.candidate_BKE[:, :steps]
    for step in range(steps):
        hidden_BC, new = model.feed_back(fed_BSE[:, step], case.time_B, case.surface_B, previous_B, grown)
        grown = [torch.cat([cache, new[:, :, b]], dim=3) for b, cache in enumerate(grown)]
        previous_B = case.time_B
    for b, n in enumerate(LENGTHS):
        one = slice(b, b + 1)
        whole_1TC, whole = model.encode(
            torch.cat([case.vector_BNE[one, :n], fed_BSE[one]], dim=1),
            torch.cat([case.actions_BN[one, :n], torch.full((1, steps), 5)], dim=1),
            torch.cat([case.timestamp_BN[one, :n], case.time_B[one].expand(1, steps)], dim=1),
            torch.cat([case.surface_BN[one, :n], case.surface_B[one].expand(1, steps)], dim=1),
            torch.arange(n + steps).unsqueeze(0) >= n,
        )
        assert (hidden_BC[b] - whole_1TC[0, -1]).abs().max() < TOLERANCE
        assert (grown[b] - whole[:, :, 0]).abs().max() < TOLERANCE
        assert torch.equal(caches[b], untouched[b])
    assert torch.equal(case.score(model), before)


def test_a_masked_event_of_the_first_item_has_no_gap_before_it(model: UnifiedRecommender) -> None:
    case = Case(model, 6)
    begin = model.tokenizer.begin(1)
    _, past = model.trunk.history(begin)
    one = slice(0, 1)
    hidden = [
        model.feed_back(
            case.candidate_BKE[one, 0], case.time_B[one], case.surface_B[one], previous, [past[:, :, 0]]
        )
        for previous in (torch.tensor([0]), torch.tensor([10**9]))
    ]
    assert torch.equal(hidden[0][0], hidden[1][0])


def test_outcomes_and_offsets_change_query_embeddings_and_nothing_else(model: UnifiedRecommender) -> None:
    case = Case(model, 7)
    hidden_BTC, _ = case.encode(model)
    last_BC = hidden_BTC[torch.arange(len(LENGTHS)), case.length_B]
    made = {
        (outcome, offset): model.retrieval_head(
            last_BC,
            case.time_B,
            case.surface_B,
            torch.full_like(case.time_B, outcome),
            torch.full_like(case.time_B, offset),
        )
        for outcome in range(4)
        for offset in range(3)
    }
    for one, query_BE in made.items():
        assert (query_BE.norm(dim=1) - 1).abs().max() < TOLERANCE
        assert all((query_BE - other).abs().max() > 1e-3 for key, other in made.items() if key != one)
