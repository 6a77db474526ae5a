"""The golden rules of the model, in float64 to 1e-9.

The reference is a dense forward written here: plain loops over layers, one explicit (n + k) x (n + k) mask
and softmax by hand. It shares weights and token inputs with the model, and none of its attention code.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.ranked import ranked
from unipinrec.models.common.affinity import NEAR_SCALE
from unipinrec.models.common.history_model import Shown
from unipinrec.models.common.tokens import Events
from unipinrec.models.common.trunk import Block
from unipinrec.models.unified.config import UnifiedConfig, preset
from unipinrec.models.unified.graphs import EncoderGraph
from unipinrec.models.unified.module import UnifiedRecommender

TOLERANCE = 1e-9
LENGTHS = (0, 1, 7, 16)


@pytest.fixture(scope="module")
def config() -> UnifiedConfig:
    """Every option of the inputs is on."""
    sizes = preset("tiny", num_items=50, num_actions=3, num_surfaces=2)
    options = {
        "id_hashes": 2, "id_rows": 20, "num_attributes": 6, "max_attributes": 3, "attribute_dim": 8,
        "content_dim": 5, "time_offsets_s": (0, 60, 3600),
    }  # fmt: skip
    return UnifiedConfig.model_validate(sizes.model_dump() | options)


@pytest.fixture(scope="module")
def model(config: UnifiedConfig) -> UnifiedRecommender:
    torch.manual_seed(7)
    model = UnifiedRecommender(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.embedder.attribute_VX.copy_(torch.randint(7, (50, 3)))
    model.embedder.content_VF.copy_(torch.randn(50, 5))
    model.embedder.cold_V[::7] = True
    model.ranking_head.item_rate_VA.normal_()
    model.ranking_head.affinity.prior_A.normal_()
    model.ranking_head.affinity.user_strength_A.uniform_(1, 9)
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
        self.candidate_BK = torch.randint(config.num_items, (len(LENGTHS), 9), generator=draw)
        self.candidate_BKE = model.embedder(self.candidate_BK).detach()
        # An item that the bundle does not have.
        self.candidate_BK[:, 4] = -1
        self.time_B = torch.full((len(LENGTHS),), 880_200_000)
        self.surface_B = torch.tensor([0, 1, 1, 0])

    def events(self, masked: bool = True) -> Events:
        masked_BN = self.masked_BN if masked else torch.zeros_like(self.masked_BN)
        return Events(self.vector_BNE, self.actions_BN, self.timestamp_BN, self.surface_BN, masked_BN)

    def encode(self, model: UnifiedRecommender, masked: bool = True) -> tuple[Tensor, Tensor]:
        return model.encode(self.events(masked))

    def rank(self, model: UnifiedRecommender, chosen: slice | list[int] = slice(None)) -> Tensor:
        candidates = self.candidate_BKE[:, chosen], self.candidate_BK[:, chosen]
        return ranked(model, candidates, (self.time_B, self.surface_B), self.events(), LENGTHS)


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


def dense_affinity(model: UnifiedRecommender, case: Case, request: int, candidate: int) -> Tensor:
    """Features [F] of one candidate, event by event."""
    affinity, actions = model.ranking_head.affinity, model.config.num_actions
    means, counts = [], []
    for half_life_s in model.config.half_lives_s:
        near, count = torch.zeros(actions + 1).double(), torch.zeros(actions + 1).double()
        acted, rows = torch.zeros(actions).double(), 0.0
        for event in range(LENGTHS[request]):
            if case.masked_BN[request, event]:
                continue
            age_s = int(case.time_B[request] - case.timestamp_BN[request, event])
            weight = 0.5 ** (age_s / half_life_s)
            cosine = case.candidate_BKE[request, candidate] @ case.vector_BNE[request, event]
            done = int(case.actions_BN[request, event])
            for kind in [a for a in range(actions) if done >> a & 1] or [actions]:
                near[kind] += weight * cosine
                count[kind] += weight
            rows += weight
        means.append(NEAR_SCALE * near / (count + 1))
        counts.append((1 + count).log())
        acted = count[:actions]
    prior, strength = torch.sigmoid(affinity.prior_A), affinity.user_strength_A
    rate = (acted + strength * prior) / (rows + strength)
    return torch.cat([*means, *counts, (rate / (1 - rate)).log() - affinity.prior_A])


def dense_probabilities(model: UnifiedRecommender, case: Case, request: int) -> Tensor:
    """Action probabilities [K, A] of one request by a dense forward over [BOS, history, candidates]."""
    n = LENGTHS[request]
    one = slice(request, request + 1)
    columns = (case.vector_BNE, case.actions_BN, case.timestamp_BN, case.surface_BN, case.masked_BN)
    event_NC = model.tokenizer.events(Events(*(column[one, :n] for column in columns)))[0]
    candidate_KC = model.tokenizer.candidates(
        case.candidate_BKE[one], case.time_B[one, None], case.surface_B[one, None]
    )[0]
    token_XC = torch.cat([model.tokenizer.begin(1)[0], event_NC, candidate_KC])
    k, t = len(candidate_KC), n + 1
    seen_XX = torch.eye(t + k, dtype=torch.bool)
    seen_XX[:t, :t] = torch.ones(t, t).tril().bool()
    seen_XX[t:, :t] = True
    for block in model.trunk.blocks:
        assert isinstance(block, Block)
        token_XC = dense_layer(block, token_XC, seen_XX)
    hidden_XC = model.trunk.norm(token_XC)
    context = (case.time_B[request], case.surface_B[request], torch.tensor(3), torch.tensor(0))
    query_E = model.retrieval_head(hidden_XC[n], *context)
    head, logits = model.ranking_head, []
    for place, row in enumerate(case.candidate_BK[request].tolist()):
        feature_F = dense_affinity(model, case, request, place)
        inner = head.inner(torch.cat([hidden_XC[t + place], feature_F])).view(3, -1)
        logit_A = (torch.nn.functional.gelu(inner) * head.outer).sum(1) + head.bias + head.wide(feature_F)
        logit_A = logit_A + head.similarity_weight_A * (query_E @ case.candidate_BKE[request, place])
        logits.append(logit_A if row < 0 else logit_A + head.rate_weight_A * head.item_rate_VA[row])
    return torch.sigmoid(torch.stack(logits))


@pytest.mark.parametrize("seed", range(3))
def test_cached_scores_equal_a_dense_masked_forward(model: UnifiedRecommender, seed: int) -> None:
    case = Case(model, seed)
    cached = case.rank(model)
    shown = Shown(
        vector_BKE=case.candidate_BKE,
        rate_BKA=model.ranking_head.item_rates(case.candidate_BK),
        feedview_BK=torch.zeros_like(case.candidate_BK),
        timestamp_BF=case.time_B[:, None],
        surface_BF=case.surface_B[:, None],
        length_BF=case.length_B[:, None],
    )
    padded = torch.sigmoid(model.score_padded(shown, case.events(), model.read(case.events())))
    for request in range(len(LENGTHS)):
        dense = dense_probabilities(model, case, request)
        assert (cached[request] - dense).abs().max() < TOLERANCE
        assert (padded[request] - dense).abs().max() < TOLERANCE


def test_feedviews_that_share_a_pass_are_scored_as_each_alone(model: UnifiedRecommender) -> None:
    """One history's candidates of three feedviews, each over what came before it."""
    case = Case(model, 8)
    longest, starts = slice(3, 4), (16, 5, 0)
    feedview_1K = torch.tensor([[0, 1, 2, 1, 0, 2, 2, 1, 0]])
    times = [int(case.timestamp_BN[3, start - 1]) + 60 if start else 880_000_000 for start in starts]
    whole = Events(*(column[longest] for column in case.events()))
    rate_1KA = model.ranking_head.item_rates(case.candidate_BK[longest])

    def scored(events: Events, chosen: Tensor, feedviews: list[int]) -> Tensor:
        shown = Shown(
            vector_BKE=case.candidate_BKE[longest][:, chosen],
            rate_BKA=rate_1KA[:, chosen],
            feedview_BK=feedview_1K[:, chosen] if len(feedviews) > 1 else torch.zeros(1, len(chosen)).long(),
            timestamp_BF=torch.tensor([[times[f] for f in feedviews]]),
            surface_BF=torch.tensor([[f % 2 for f in feedviews]]),
            length_BF=torch.tensor([[starts[f] for f in feedviews]]),
        )
        return model.score_padded(shown, events, model.read(events))

    together = scored(whole, torch.arange(9), [0, 1, 2])
    for feedview, start in enumerate(starts):
        chosen = (feedview_1K[0] == feedview).nonzero()[:, 0]
        alone = scored(Events(*(column[:, :start] for column in whole)), chosen, [feedview])
        assert (together[:, chosen] - alone).abs().max() < TOLERANCE


def test_an_events_own_actions_never_reach_its_prediction(model: UnifiedRecommender) -> None:
    case = Case(model, 9)
    rates = torch.zeros(len(LENGTHS), 16, 3).double()
    before = model.score_events(rates, case.events(), model.read(case.events()))
    case.actions_BN = torch.where(case.masked_BN, 7 - case.actions_BN, case.actions_BN)
    after = model.score_events(rates, case.events(), model.read(case.events()))
    assert torch.equal(before, after)


def test_scores_ignore_the_order_and_the_company_of_candidates(model: UnifiedRecommender) -> None:
    case = Case(model, 1)
    together = case.rank(model)
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    permuted = case.rank(model, order)
    assert (permuted - together[:, order]).abs().max() < TOLERANCE
    for kept in ([3], [0, 8], [1, 2, 5, 7]):
        alone = case.rank(model, kept)
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


class Packed:
    """Events of several requests one after another, as `extend` takes them; written here event by event."""

    def __init__(self) -> None:
        self.vectors: list[Tensor] = []
        self.fields: list[tuple[int, ...]] = []
        self.first: list[int] = []
        self.cached: list[int] = []
        self.slots: list[Tensor] = []

    def begin(self, cached: int, slot: Tensor) -> None:
        """The next request, behind `cached` positions of its slot."""
        self.first.append(len(self.fields))
        self.cached.append(cached)
        self.slots.append(slot)

    def add(self, vector_E: Tensor, *fields: Tensor | int) -> None:
        """Actions, masked, timestamp, timestamp before, surface, position of one token."""
        self.vectors.append(vector_E)
        self.fields.append(tuple(int(field) for field in fields))

    def extend(self, model: UnifiedRecommender) -> Tensor:
        """Hidden states [B, C]; two rows of padding stand at the end."""
        count = [end - begin for begin, end in pairwise([*self.first, len(self.fields)])]
        columns = torch.tensor([*self.fields, (1, 1, 9, 9, 1, 3), (0, 0, 0, 0, 0, 1)]).T
        actions_X, masked_X, timestamp_X, previous_X, surface_X, position_X = columns
        hidden_BC: Tensor = EncoderGraph(model)(
            torch.stack([*self.vectors, *torch.full((2, model.config.item_dim), 1e3).double()]),
            actions_X,
            masked_X.bool(),
            timestamp_X,
            previous_X,
            surface_X,
            position_X,
            self.first,
            self.cached,
            count,
            self.slots,
        )
        return hidden_BC[: len(count)]


def add_history(packed: Packed, case: Case, request: int, cached: int, slot: Tensor) -> None:
    """The positions of a request's history from `cached` on; nothing is masked."""
    packed.begin(cached, slot)
    vector_NE, timestamp_N = case.vector_BNE[request], case.timestamp_BN[request]
    for position in range(cached, LENGTHS[request] + 1):
        if position == 0:
            packed.add(torch.full_like(vector_NE[0], 1e3), 3, 0, 77, 7, 1, 0)
            continue
        event = position - 1
        previous = timestamp_N[event - 1] if event else -5
        fields = (case.actions_BN[request, event], 0, timestamp_N[event], previous)
        packed.add(vector_NE[event], *fields, case.surface_BN[request, event], position)


def empty_slots(model: UnifiedRecommender, room: int = 0) -> list[Tensor]:
    """Poisoned memory for each request."""
    config = model.config
    shape = (config.layers, 2, config.heads, config.max_positions + room, config.head_dim)
    return [torch.full(shape, 1e3, dtype=torch.float64) for _ in LENGTHS]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_prefix_reuse_equals_recomputation(model: UnifiedRecommender, share: float) -> None:
    """Share 0 is the pass over whole histories; each request has at least one position left."""
    case = Case(model, 3)
    hidden_BTC, past = case.encode(model, masked=False)
    slots = empty_slots(model)
    packed = Packed()
    for request, n in enumerate(LENGTHS):
        cached = min(int(share * (n + 1)), n)
        slots[request][:, :, :, :cached] = past[:, :, request, :, :cached]
        add_history(packed, case, request, cached, slots[request])
    hidden_BC = packed.extend(model)
    for request, n in enumerate(LENGTHS):
        assert (hidden_BC[request] - hidden_BTC[request, n]).abs().max() < TOLERANCE
        written = slots[request][:, :, :, : n + 1]
        assert (written - past[:, :, request, :, : n + 1]).abs().max() < TOLERANCE
        assert (slots[request][:, :, :, n + 1 :] == 1e3).all()


def test_appending_events_changes_no_earlier_key_or_value(model: UnifiedRecommender) -> None:
    case = Case(model, 4)
    _, long = case.encode(model)
    for n in (0, 1, 9):
        columns = (case.vector_BNE, case.actions_BN, case.timestamp_BN, case.surface_BN, case.masked_BN)
        _, short = model.encode(Events(*(column[:, :n] for column in columns)))
        assert (short - long[:, :, :, :, : n + 1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("steps", [1, 3])
def test_feeding_back_equals_encoding_masked_events_and_leaves_ranking_alone(
    model: UnifiedRecommender, steps: int
) -> None:
    case = Case(model, 5)
    before = case.rank(model)
    _, past = case.encode(model, masked=False)
    slots = empty_slots(model, room=steps)
    for b, n in enumerate(LENGTHS):
        slots[b][:, :, :, : n + 1] = past[:, :, b, :, : n + 1]
    fed_BSE = case.candidate_BKE[:, :steps]
    for step in range(steps):
        packed = Packed()
        for b, n in enumerate(LENGTHS):
            last = case.timestamp_BN[b, n - 1] if n else 4
            packed.begin(n + 1 + step, slots[b])
            times = (case.time_B[b], case.time_B[b] if step else last)
            packed.add(fed_BSE[b, step], 6, 1, *times, case.surface_B[b], n + 1 + step)
        hidden_BC = packed.extend(model)
    for b, n in enumerate(LENGTHS):
        one = slice(b, b + 1)
        events = Events(
            torch.cat([case.vector_BNE[one, :n], fed_BSE[one]], dim=1),
            torch.cat([case.actions_BN[one, :n], torch.full((1, steps), 5)], dim=1),
            torch.cat([case.timestamp_BN[one, :n], case.time_B[one].expand(1, steps)], dim=1),
            torch.cat([case.surface_BN[one, :n], case.surface_B[one].expand(1, steps)], dim=1),
            torch.arange(n + steps).unsqueeze(0) >= n,
        )
        whole_1TC, whole = model.encode(events)
        assert (hidden_BC[b] - whole_1TC[0, -1]).abs().max() < TOLERANCE
        assert (slots[b][:, :, :, : n + 1 + steps] - whole[:, :, 0]).abs().max() < TOLERANCE
    assert torch.equal(case.rank(model), before)


def test_the_first_event_has_no_gap_before_it(model: UnifiedRecommender) -> None:
    case = Case(model, 6)
    hidden = []
    for previous in (0, 10**9):
        packed = Packed()
        packed.begin(0, empty_slots(model)[0])
        packed.add(case.candidate_BKE[0, 0], 0, 0, 0, 0, 0, 0)
        packed.add(case.candidate_BKE[0, 1], 0, 1, case.time_B[0], previous, case.surface_B[0], 1)
        hidden.append(packed.extend(model))
    assert torch.equal(hidden[0], hidden[1])


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
