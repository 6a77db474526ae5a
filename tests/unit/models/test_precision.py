"""A model of fewer bits rounds where it says and nowhere else.

Shapes: B requests, N events, T = N + 1, K candidates, A actions, C hidden width, E item width.
"""

from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.support.ranked import ranked
from unipinrec.models.common.float8 import Float8Linear
from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.graphs import EncoderGraph
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.precision import Lowered, lower_precision

MINUTE = 60
LENGTH = 12
NOW = 1_700_000_000


@pytest.fixture(scope="module")
def exact() -> UnifiedRecommender:
    torch.manual_seed(3)
    model = UnifiedRecommender(preset("tiny", num_items=60, num_actions=3, num_surfaces=2)).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3 if "ranking_head" in name else 0.15)
    return model.requires_grad_(False)


@pytest.fixture(params=get_args(Lowered))
def lowered(exact: UnifiedRecommender, request: pytest.FixtureRequest) -> UnifiedRecommender:
    return lower_precision(deepcopy(exact), request.param)


class Case:
    """Two histories whose events are a minute apart."""

    def __init__(self, model: UnifiedRecommender) -> None:
        draw = torch.Generator().manual_seed(4)
        item_BN = torch.randint(60, (2, LENGTH), generator=draw)
        self.vector_BNE = model.embedder(item_BN)
        self.actions_BN = torch.randint(8, (2, LENGTH), generator=draw)
        self.timestamp_BN = NOW + MINUTE * torch.arange(LENGTH).expand(2, -1)
        self.surface_BN = torch.randint(2, (2, LENGTH), generator=draw)
        self.candidate_BK = torch.randint(60, (2, 9), generator=draw)
        self.candidate_BKE = model.embedder(self.candidate_BK)
        self.time_B = torch.full((2,), NOW + LENGTH * MINUTE)
        self.surface_B = torch.tensor([0, 1])
        self.outcome_B, self.offset_B = torch.tensor([0, 3]), torch.zeros(2, dtype=torch.long)

    def events(self) -> Events:
        columns = (self.actions_BN, self.timestamp_BN, self.surface_BN, self.actions_BN < 0)
        return Events(self.vector_BNE, *columns)

    def encode(self, model: UnifiedRecommender) -> tuple[Tensor, Tensor]:
        return model.encode(self.events())

    def logits(self, model: UnifiedRecommender) -> Tensor:
        candidates = self.candidate_BKE, self.candidate_BK
        context = self.time_B, self.surface_B
        return torch.logit(ranked(model, candidates, context, self.events(), [LENGTH] * 2))

    def queries(self, model: UnifiedRecommender, hidden_BC: Tensor) -> Tensor:
        context = (self.time_B, self.surface_B, self.outcome_B, self.offset_B)
        query_BE: Tensor = model.retrieval_head(hidden_BC, *context)
        return query_BE


def projected(model: UnifiedRecommender, case: Case) -> Tensor:
    """What the token projection is given of whole histories."""
    given: list[Tensor] = []
    hook = model.tokenizer.project.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    case.encode(model)
    hook.remove()
    return given[0]


def test_token_features_are_those_of_float32_rounded_once(
    exact: UnifiedRecommender, lowered: UnifiedRecommender
) -> None:
    case = Case(exact)
    assert torch.equal(projected(lowered, case), projected(exact, case).bfloat16())


def test_queries_are_what_the_float32_head_makes_of_the_hidden_states(
    exact: UnifiedRecommender, lowered: UnifiedRecommender
) -> None:
    case = Case(exact)
    hidden_BTC, _ = case.encode(lowered)
    assert hidden_BTC.dtype == torch.bfloat16
    found_BE = case.queries(lowered, hidden_BTC[:, -1])
    assert torch.equal(found_BE, case.queries(exact, hidden_BTC[:, -1].float()))
    assert found_BE.dtype == torch.float32
    assert (found_BE.norm(dim=1) - 1).abs().max() < 1e-6


def test_the_ranking_head_sums_hidden_units_in_float32(
    exact: UnifiedRecommender, lowered: UnifiedRecommender
) -> None:
    hidden_BC = torch.randn(5, 32, generator=torch.Generator().manual_seed(5)).bfloat16()
    head = exact.ranking_head
    draw = torch.Generator().manual_seed(6)
    affinity_BF = torch.randn(5, head.affinity.size, generator=draw)
    rate_BA, similarity_B1 = torch.randn(5, 3, generator=draw), torch.randn(5, 1, generator=draw)
    weight, bias = head.inner.weight.bfloat16().double(), head.inner.bias.bfloat16().double()
    joined_BX = torch.cat([hidden_BC, affinity_BF.bfloat16()], dim=1).double()
    inner = (joined_BX @ weight.T + bias).bfloat16().double()
    active = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    known_BA = rate_BA * head.rate_weight_A + similarity_B1 * head.similarity_weight_A
    known_BA = known_BA + head.bias + affinity_BF @ head.wide.weight.T
    expected_BA = (active.view(5, 3, -1) * head.outer).sum(-1) + known_BA
    found_BA = lowered.ranking_head(hidden_BC, affinity_BF, rate_BA, similarity_B1)
    assert found_BA.dtype == torch.float32
    assert (found_BA - expected_BA).abs().max() < 1e-5


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 10 * 2.0**-8), ("float8", 0.15)])
def test_hidden_states_differ_by_the_rounding_of_the_trunk(
    exact: UnifiedRecommender, precision: Lowered, most: float
) -> None:
    """About ten numbers are rounded on the way, each by 2^-8 at most in bfloat16; the two layers' products of
    8 bits may add what `test_float8` derives, .106.
    """
    case = Case(exact)
    (right_BTC, _), (found_BTC, _) = (
        case.encode(exact),
        case.encode(lower_precision(deepcopy(exact), precision)),
    )
    assert 0 < float((found_BTC - right_BTC).norm() / right_BTC.norm()) < most


def test_logits_of_fewer_bits_are_close_and_in_float32(
    exact: UnifiedRecommender, lowered: UnifiedRecommender
) -> None:
    """Closer to the exact ones by far than those are to one another."""
    case = Case(exact)
    right_BKA, found_BKA = case.logits(exact), case.logits(lowered)
    assert found_BKA.dtype == torch.float32
    assert float((found_BKA - right_BKA).std()) < 0.25 * float(right_BKA.std())


def test_slots_are_continued_in_fewer_bits_as_whole_histories_are_encoded(
    lowered: UnifiedRecommender,
) -> None:
    case = Case(lowered)
    hidden_BTC, past = case.encode(lowered)
    slot = torch.zeros_like(past[:, :, 0])
    previous_X = torch.cat([case.timestamp_BN[0, :1], case.timestamp_BN[0, :-1]])

    def with_bos(of_events: Tensor) -> Tensor:
        return torch.cat([of_events[:1], of_events])

    hidden_BC = EncoderGraph(lowered)(
        with_bos(case.vector_BNE[0]),
        with_bos(case.actions_BN[0]),
        torch.zeros(LENGTH + 1, dtype=torch.bool),
        with_bos(case.timestamp_BN[0]),
        with_bos(previous_X),
        with_bos(case.surface_BN[0]),
        torch.arange(LENGTH + 1),
        [0],
        [0],
        [LENGTH + 1],
        [slot],
    )
    # The same numbers in products of another size: the last of 8 bits may differ.
    assert (slot - past[:, :, 0]).abs().max() < 2.0**-6 * past.abs().max()
    assert (hidden_BC[0] - hidden_BTC[0, -1]).abs().max() < 2.0**-6 * hidden_BTC.abs().max()


def test_float8_rounds_weights_once(exact: UnifiedRecommender) -> None:
    model = lower_precision(deepcopy(exact), "float8")
    found = model.trunk.get_submodule("blocks.0.output")
    once = Float8Linear.of(exact.trunk.get_submodule("blocks.0.output"))
    for name, buffer in once.named_buffers():
        assert torch.equal(found.get_buffer(name).float(), buffer.float())
