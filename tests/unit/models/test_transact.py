"""TransAct: what it says of a candidate depends on its request and itself, and on nothing beside them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.support.random_rankers import SWITCHES, apart, logits
from tests.support.random_rankers import transact as ranker
from tests.support.slate_requests import (
    ACTIONS,
    ITEMS,
    LAST_BITS,
    NOW,
    SURFACES,
    Sizes,
    slates,
    without_events,
)
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.config import TransactConfig
from unipinrec.models.transact.layer import EncoderLayer, joined
from unipinrec.models.transact.module import TransAct, newest_first


@pytest.fixture(scope="module", params=SWITCHES, ids=str)
def model(request: pytest.FixtureRequest) -> TransAct:
    return ranker(**request.param)


def test_small_groups_of_requests_change_nothing(model: TransAct, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = slates().requests
    expected = logits(model, requests)
    monkeypatch.setattr("unipinrec.models.transact.encoder_v1.ROWS_AT_ONCE", 1)
    assert apart(logits(model, requests), expected) < LAST_BITS


def test_the_time_window_hides_exactly_the_events_within_it() -> None:
    """Those after its begin, as if they had not been; what the crossing is told of all events stays."""
    requests = slates([Sizes(12, 3, 4), Sizes(20, 0, 5)]).requests
    begin = NOW - 3_600
    requests.events.timestamp_N[:12] = begin - torch.tensor(
        [9, 8, 7, 6, 1, 0, -1, -2, -9, -10, -3_599, -3_600]
    )
    model, events = ranker(), requests.events
    place, length = newest_first(events, requests.request_time_R, 100, torch.tensor([3_600, 0]))
    assert length.tolist() == [6, 20]
    assert place[0, :6].tolist() == [5, 4, 3, 2, 1, 0]
    assert place[1, :20].tolist() == list(range(31, 11, -1))
    place, length = newest_first(events, requests.request_time_R, 3, torch.tensor([3_600, 0]))
    assert length.tolist() == [3, 3]
    assert place.tolist() == [[5, 4, 3], [31, 30, 29]]
    hidden_N = torch.zeros(32, dtype=torch.bool)
    hidden_N[6:12] = True
    fewer = without_events(requests, hidden_N)
    encoded = [
        encoder_output(model, each, hidden) for each, hidden in ((requests, [3_600, 0]), (fewer, None))
    ]
    assert apart(*encoded) < LAST_BITS
    assert apart(encoded[0], encoder_output(model, requests, None)) > 0.01


def encoder_output(model: TransAct, requests: RequestBatch, hidden_s: list[int] | None) -> Tensor:
    seen: list[Tensor] = []
    handle = model.encoder.register_forward_hook(lambda *call: seen.append(call[2]))
    logits(model, requests, None if hidden_s is None else torch.tensor(hidden_s))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("outputs", ["both", "first", "max"])
def test_where_all_events_are_hidden_the_encoder_gives_zeros(outputs: str) -> None:
    model = ranker(outputs=outputs)
    requests = slates([Sizes(12, 3, 4), Sizes(5, 0, 5)]).requests
    encoded = encoder_output(model, requests, [10**7, 0])
    assert encoded[:4].count_nonzero() == 0
    assert encoded[4:].abs().min(1).values.max() >= 0
    assert encoded[4:].count_nonzero() > 0
    model.train()(requests, torch.tensor([10**7, 10**7])).sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_rows_that_there_are_not_are_zeros() -> None:
    encoded = encoder_output(ranker(outputs="first"), slates([Sizes(3, 0, 2), Sizes(9, 0, 1)]).requests, None)
    rows = encoded.unflatten(1, (4, -1))
    assert rows[:2, 3].count_nonzero() == 0
    assert (rows[:2, :3].abs().amax(-1) > 0).all()
    assert (rows[2].abs().amax(-1) > 0).all()


def test_only_the_latest_events_are_read() -> None:
    model, requests = ranker(half_lives_s=()), slates([Sizes(40, 0, 3)]).requests
    changed = replace(
        requests, events=replace(requests.events, item_row_N=requests.events.item_row_N.clone())
    )
    changed.events.item_row_N[:20] = 7
    assert apart(logits(model, requests), logits(model, changed)) == 0
    changed.events.item_row_N[20] = (changed.events.item_row_N[20] + 1) % ITEMS
    assert apart(logits(model, requests), logits(model, changed)) > LAST_BITS


@pytest.mark.parametrize("name", ["item_row_N", "actions_N"])
def test_what_an_event_was_counts(name: str) -> None:
    model, requests = ranker(), slates([Sizes(6, 0, 3)]).requests
    rows = getattr(requests.events, name).clone()
    rows[2] = (rows[2] % (2**ACTIONS - 1)) + 1
    changed = replace(requests, events=replace(requests.events, **{name: rows}))
    assert apart(logits(model, requests), logits(model, changed)) > LAST_BITS


@pytest.mark.parametrize(
    "name",
    [
        *("request_time_R", "request_surface_R", "user_rate_RA", "user_shown_R", "candidate_item_C"),
        *("item_rate_CA", "item_shown_C", "attribute_rate_CA", "attribute_shown_C"),
    ],
)
def test_everything_known_of_request_and_candidate_counts(name: str) -> None:
    model, requests = ranker(), slates([Sizes(6, 4, 3)]).requests
    added = 7_000 if name == "request_time_R" else 1
    other = {"request_surface_R": 1 - requests.request_surface_R}.get(name, getattr(requests, name) + added)
    changed = replace(requests, **{name: other})
    assert apart(logits(model, requests), logits(model, changed)) > LAST_BITS


def test_the_logits_start_at_what_rates_say() -> None:
    torch.manual_seed(0)
    config = TransactConfig(num_items=ITEMS, num_actions=ACTIONS, num_surfaces=SURFACES, max_candidates=8)
    model, requests = TransAct(config).eval(), slates().requests
    model.heads.rates.prior_A.copy_(torch.tensor([-1.0, -3.0, 0.5]))
    request_C = requests.request_of_candidate
    known = model.heads.rates.prior_A + requests.user_rate_RA[request_C]
    known = known + requests.item_rate_CA + requests.attribute_rate_CA
    assert apart(logits(model, requests), known) < 0.3
    alone = TransAct(config.model_copy(update={"base_rates": False})).eval()
    changed = replace(
        requests, user_rate_RA=requests.user_rate_RA + 1, item_shown_C=requests.item_shown_C + 1
    )
    assert apart(logits(alone, requests), logits(alone, changed)) == 0


def test_users_are_means_of_what_they_acted_on_the_recent_counting_more() -> None:
    """Against sums of one row at a time; hidden seconds hide rows of both sequences."""
    half_lives, hidden = (900, 86_400), [0, 40_000]
    model, requests = ranker(half_lives_s=half_lives), slates([Sizes(6, 9, 2), Sizes(8, 7, 1)]).requests
    events, shown = requests.events, requests.impressions
    vectors = model.vectors(events.item_row_N), model.vectors(shown.item_row_N)
    candidate_CE = model.vectors(requests.candidate_item_C)
    found = model.interests(requests, vectors, candidate_CE, torch.tensor(hidden))
    for candidate, request in enumerate([0, 0, 1]):
        means, weights = [], []
        for action in range(ACTIONS + 1):
            rows, vector_NE = (events, vectors[0]) if action < ACTIONS else (shown, vectors[1])
            own = range(*rows.offset_R1[request : request + 2].tolist())
            for half_life in half_lives:
                total, weight = torch.zeros(32), 0.0
                for row in own:
                    age = NOW - int(rows.timestamp_N[row])
                    acted = action == ACTIONS or int(rows.actions_N[row]) >> action & 1
                    if acted and age >= hidden[request]:
                        total = total + 0.5 ** (age / half_life) * vector_NE[row]
                        weight += 0.5 ** (age / half_life)
                means.append(3 * total @ candidate_CE[candidate] / (weight + 1) / 32**0.5)
                weights.append(weight)
        wanted = torch.cat([torch.stack(means), torch.tensor(weights).log1p()])
        assert apart(found[candidate], wanted) < LAST_BITS


def test_a_layer_of_pairs_is_the_layer_of_joined_rows() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(12, 8, 0.1).eval()
    event_RNS, candidate_CT = torch.randn(3, 5, 8), torch.randn(7, 4)
    request_C = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    bias_RN = torch.zeros(3, 5).masked_fill(torch.rand(3, 5) < 0.3, -1e9)
    row_CND = joined(event_RNS, candidate_CT, request_C)
    whole = layer(row_CND, bias_RN[request_C])
    assert apart(layer.of_pairs(event_RNS, bias_RN, candidate_CT, request_C), whole) < LAST_BITS
    assert apart(layer(row_CND, bias_RN[request_C], 2), whole[:, :2]) < LAST_BITS


def test_a_layer_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(12, 8, 0.0).eval()
    other = nn.TransformerEncoderLayer(12, 1, 8, 0.0, batch_first=True).eval()
    pairs = {
        "self_attn.in_proj_weight": layer.project.weight,
        "self_attn.in_proj_bias": layer.project.bias,
        "self_attn.out_proj.weight": layer.join.weight,
        "self_attn.out_proj.bias": layer.join.bias,
        **{f"linear1.{name}": weight for name, weight in layer.inner.named_parameters()},
        **{f"linear2.{name}": weight for name, weight in layer.outer.named_parameters()},
        **{f"norm1.{name}": weight for name, weight in layer.norm_attention.named_parameters()},
        **{f"norm2.{name}": weight for name, weight in layer.norm_feedforward.named_parameters()},
    }
    other.load_state_dict(pairs)
    row_CND = torch.randn(4, 6, 12)
    padding_CN = torch.arange(6) >= torch.tensor([6, 2, 4, 1]).unsqueeze(1)
    bias_CN = torch.zeros(4, 6).masked_fill(padding_CN, -1e9)
    # Gradients on, which keeps PyTorch from its nested fast path.
    expected = other(row_CND, src_key_padding_mask=padding_CN)
    assert apart(layer(row_CND, bias_CN)[~padding_CN], expected[~padding_CN]) < LAST_BITS
