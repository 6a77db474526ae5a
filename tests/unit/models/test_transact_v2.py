"""TransAct V2: the tokens of a candidate are the right rows in the right places, and nothing else counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.support.random_rankers import SIZES_V2, apart, logits
from tests.support.random_rankers import transact_v2 as ranker
from tests.support.slate_requests import (
    ACTIONS,
    ITEMS,
    LAST_BITS,
    Sizes,
    slates,
)
from unipinrec.models.transact import causal_blocks
from unipinrec.models.transact.causal_blocks import BLOCK, CausalBlocks, candidates_together
from unipinrec.models.transact.encoder_v2 import Tokens
from unipinrec.models.transact.layer import CausalLayer
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.nearest import latest, nearest_rows


@pytest.fixture(scope="module")
def model() -> TransActV2:
    return ranker()


def test_logged_rows_give_what_a_search_gives(model: TransActV2) -> None:
    requests = slates().requests
    logged = nearest_rows(requests, model.search_VW, model.config)
    assert apart(logits(model, requests, logged), logits(model, requests)) == 0
    other = replace(logged, older_count_C=logged.older_count_C.clamp(max=1))
    assert apart(logits(model, requests, other), logits(model, requests)) > LAST_BITS


@pytest.mark.parametrize("part", ["lifelong_nearest", "realtime_nearest", "impressions_nearest"])
def test_a_part_may_have_no_tokens(part: str) -> None:
    model, requests = ranker(**{part: 0}), slates().requests
    assert logits(model, requests).isfinite().all()
    assert model.encoder.position.weight.size(0) == 18 - SIZES_V2[part]


def test_tokens_are_the_nearest_of_each_part_and_the_latest_in_order_of_time(model: TransActV2) -> None:
    """Against sums and sorts of one candidate at a time."""
    requests = slates([Sizes(30, 20, 3), Sizes(11, 2, 2), Sizes(3, 1, 1)], seed=4).requests
    nearest = nearest_rows(requests, model.search_VW, model.config)
    tokens = Tokens.of(requests, nearest, model.config)
    vectors = model.search_VW.double()
    events, shown = requests.events, requests.impressions
    for candidate, request in enumerate(requests.request_of_candidate.tolist()):
        wanted = vectors[requests.candidate_item_C[candidate]]

        def closest(rows: list[int], item_row_N: Tensor, count: int, wanted: Tensor = wanted) -> list[int]:
            unit = nn.functional.normalize(vectors[item_row_N[rows]], dim=-1)
            score = (unit @ wanted).tolist()
            by_score = sorted(range(len(rows)), key=lambda index: (-score[index], -index))[:count]
            return sorted(rows[index] for index in by_score)

        own = list(range(*events.offset_R1[request : request + 2].tolist()))
        seen = list(range(*shown.offset_R1[request : request + 2].tolist()))
        parts = [
            (closest(own[:-9], events.item_row_N, 5), 5),
            (own[-4:], 4),
            (closest(own[-9:-4], events.item_row_N, 3), 3),
            ([30 + 11 + 3 + row for row in closest(seen, shown.item_row_N, 6)], 6),
        ]
        length = sum(len(rows) for rows, _ in parts)
        assert tokens.length_C[candidate] == length
        assert tokens.row_CT[candidate, :length].tolist() == [row for rows, _ in parts for row in rows]
        slots, begin = [], 0
        for rows, size in parts:
            slots += range(begin + size - len(rows), begin + size)
            begin += size
        assert tokens.slot_CT[candidate, :length].tolist() == slots
        assert tokens.latest_begin_C[candidate] == len(parts[0][0])


def test_the_latest_rows_of_requests_are_theirs_alone() -> None:
    events = slates([Sizes(5, 0, 1), Sizes(0, 0, 1), Sizes(2, 0, 1), Sizes(9, 0, 1)]).requests.events
    events = replace(events, item_row_N=torch.arange(16))
    kept = latest(events, 3)
    assert kept.item_row_N.tolist() == [2, 3, 4, 5, 6, 13, 14, 15]
    assert kept.offset_R1.tolist() == [0, 3, 3, 5, 8]
    assert torch.equal(kept.timestamp_N, events.timestamp_N[kept.item_row_N])


def test_of_lifelong_events_none_but_the_nearest_counts(model: TransActV2) -> None:
    requests = slates([Sizes(40, 4, 3)]).requests
    logged = nearest_rows(requests, model.search_VW, model.config)
    unread = torch.ones(40, dtype=torch.bool)
    unread[torch.cat([logged.older_CK.flatten(), torch.arange(31, 40)])] = False
    assert unread.sum() > 15
    items = requests.events.item_row_N.masked_fill(unread, 7)
    changed = replace(requests, events=replace(requests.events, item_row_N=items))
    assert apart(logits(model, requests, logged), logits(model, changed, logged)) == 0


def test_actions_on_nearest_rows_count_by_likeness() -> None:
    """Against sums of one candidate and row at a time."""
    model, requests = ranker(), slates([Sizes(30, 20, 3), Sizes(2, 0, 2)]).requests
    assert model.nearest_actions is not None
    nearest = nearest_rows(requests, model.search_VW, model.config)
    vector_CE = model.vectors(requests.candidate_item_C)
    found = model.nearest_actions(requests, nearest, vector_CE, model.vectors)
    events, shown = requests.events, requests.impressions
    parts = (
        (events, nearest.older_CK, nearest.older_count_C),
        (events, nearest.realtime_CK, nearest.realtime_count_C),
    )
    for candidate in range(5):

        def like(item: Tensor, own: Tensor = vector_CE[candidate]) -> float:
            cosine = nn.functional.cosine_similarity(model.vectors(item.unsqueeze(0))[0], own, dim=0)
            return float(torch.exp(4 * (cosine - 1)).detach())

        wanted = []
        for rows, row_CK, count_C in parts:
            own = row_CK[candidate, : int(count_C[candidate])].tolist()
            wanted += [
                sum(like(rows.item_row_N[row]) for row in own if int(rows.actions_N[row]) >> action & 1)
                for action in range(ACTIONS)
            ]
        passed = nearest.impression_CK[candidate, : int(nearest.impression_count_C[candidate])].tolist()
        wanted.append(sum(like(shown.item_row_N[row]) for row in passed))
        assert apart(found[candidate], torch.tensor(wanted).log1p()) < LAST_BITS
    assert found[:3].min() > 0
    assert found[3:].count_nonzero() == 0


def test_without_these_counts_heads_have_fewer_features_and_nearest_rows_still_count() -> None:
    counting, model, requests = ranker(), ranker(nearest_counts=False), slates().requests
    assert model.nearest_actions is None
    fewer = counting.heads.wide.in_features - model.heads.wide.in_features
    assert fewer == 2 * ACTIONS + 1
    logged = nearest_rows(requests, model.search_VW, model.config)
    assert apart(logits(model, requests, logged), logits(model, requests)) == 0
    other = replace(logged, older_count_C=logged.older_count_C.clamp(max=1))
    assert apart(logits(model, requests, other), logits(model, requests)) > LAST_BITS


def test_the_encoder_is_causal() -> None:
    torch.manual_seed(0)
    layer, row_CND = CausalLayer(12, 8, 0.0), torch.randn(2, 7, 12)
    changed = row_CND.clone()
    changed[:, 4] += 1
    before, after = layer(row_CND), layer(changed)
    assert apart(before[:, :4], after[:, :4]) == 0
    assert ((before[:, 4:] - after[:, 4:]).abs().amax(-1) > LAST_BITS).all()
    assert apart(layer(row_CND[:, :3]), before[:, :3]) < LAST_BITS
    assert not any(weight.ndim == 1 for weight in layer.parameters())


@pytest.mark.parametrize("rows", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 192])
def test_blocks_without_gradients_give_what_the_layers_do(rows: int) -> None:
    torch.manual_seed(1)
    layers = [CausalLayer(20, 12, 0.1).eval() for _ in range(2)]
    row_CND = 1.0 + torch.randn(5, rows, 20)
    with torch.inference_mode():
        expected = row_CND
        for layer in layers:
            for weight in layer.parameters():
                nn.init.normal_(weight, std=weight.size(-1) ** -0.5)
            expected = layer(expected)
        assert apart(CausalBlocks(layers)(row_CND.clone()), expected) < LAST_BITS


def test_candidates_in_several_parts_give_what_they_give_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = ranker(), slates().requests
    whole = logits(model, requests)
    monkeypatch.setattr(causal_blocks, "TOGETHER", 2 * model.config.tokens)
    assert candidates_together(model.config.tokens) == 2
    assert apart(logits(model, requests), whole) < LAST_BITS
    assert apart(model(requests), whole) < LAST_BITS


def test_padding_changes_nothing_and_is_never_pooled(model: TransActV2) -> None:
    requests = slates([Sizes(2, 1, 2), Sizes(30, 20, 1)]).requests
    alone = requests.requests(slice(0, 1))
    with torch.inference_mode():
        together, single = model.ranked(requests), model.ranked(alone)
    assert together.row_CTD.size(1) == 18
    assert single.row_CTD.size(1) == 3
    assert apart(together.row_CTD[:2, :3], single.row_CTD) < LAST_BITS
    assert apart(together.logit_CA[:2], single.logit_CA) < LAST_BITS


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        (part, name)
        for part in ("events", "impressions")
        for name in ("item_row_N", "surface_N", "timestamp_N")
    ]
    + [("events", "actions_N")],
)
def test_what_a_row_was_counts(model: TransActV2, sequence: str, name: str) -> None:
    requests = slates([Sizes(6, 4, 3)]).requests
    rows = getattr(requests, sequence)
    values = getattr(rows, name).clone()
    other = {"surface_N": 1 - values[3], "timestamp_N": values[3] - 100_000, "actions_N": values[3] % 7 + 1}
    values[3] = other.get(name, (values[3] + 1) % ITEMS)
    nearest = nearest_rows(requests, model.search_VW, model.config)
    changed = replace(requests, **{sequence: replace(rows, **{name: values})})
    assert apart(logits(model, requests, nearest), logits(model, changed, nearest)) > LAST_BITS
