"""What either second ranker says of a candidate depends on its request and itself, and on nothing beside."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from tests.support.random_rankers import SWITCHES, apart, logits, transact, transact_v2
from tests.support.slate_requests import ACTIONS, LAST_BITS, MIXED, Sizes, chosen, repeated, slates
from unipinrec.models.transact.module import TransAct, TransActV2

Ranker = TransAct | TransActV2
RANKERS: dict[str, Callable[[], Ranker]] = {
    **{f"transact {switch}": partial(transact, **switch) for switch in SWITCHES},
    "transact-v2": transact_v2,
}


@pytest.fixture(scope="module", params=RANKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Ranker]:
    return RANKERS[request.param]


@pytest.fixture(scope="module")
def model(make: Callable[[], Ranker]) -> Ranker:
    return make()


def test_a_batch_gives_what_single_requests_give(model: Ranker) -> None:
    requests = slates().requests
    whole = logits(model, requests)
    assert whole.shape == (sum(size.candidates for size in MIXED), ACTIONS)
    singles = [logits(model, requests.requests(slice(row, row + 1))) for row in range(len(MIXED))]
    assert apart(whole, torch.cat(singles)) < LAST_BITS
    assert whole.std(0).min() > 0.01


def test_leaving_out_and_reordering_candidates_changes_no_other(model: Ranker) -> None:
    requests = slates().requests
    order = [3, 1, 4, 6, 12, 9, 13, 17, 15, 14]
    assert apart(logits(model, chosen(requests, order)), logits(model, requests)[order]) < LAST_BITS


def test_sequences_once_give_what_a_request_per_candidate_gives(model: Ranker) -> None:
    requests = slates().requests
    assert len(repeated(requests).request_time_R) == 21
    assert apart(logits(model, requests), logits(model, repeated(requests))) < LAST_BITS


def test_training_without_dropout_computes_what_evaluation_does(model: Ranker) -> None:
    requests = slates().requests
    expected = logits(model, requests)
    for part in model.modules():
        for name in ("p", "probability"):
            if hasattr(part, name):
                setattr(part, name, 0.0)
    model.train()
    assert apart(logits(model, requests), expected) < LAST_BITS
    model.eval()


def test_gradients_are_finite_and_reach_every_parameter(make: Callable[[], Ranker]) -> None:
    model = make().train()
    model(slates().requests).square().sum().backward()
    for name, weight in model.named_parameters():
        unused = name == "heads.rates.weight_3A" and not model.config.base_rates
        assert unused or weight.grad is not None, name
        assert unused or (weight.grad.isfinite().all() and weight.grad.abs().max() > 0), name


@pytest.mark.parametrize(
    "sizes", [[Sizes(0, 0, 3)], [Sizes(0, 0, 2), Sizes(0, 5, 1)], [Sizes(7, 0, 0), Sizes(2, 0, 2)]]
)
def test_requests_without_rows_or_candidates_are_finite(model: Ranker, sizes: list[Sizes]) -> None:
    requests = slates(sizes).requests
    logit_CA = model(requests)
    assert logit_CA.isfinite().all()
    logit_CA.sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    model.zero_grad()
