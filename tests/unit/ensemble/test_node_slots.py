"""The nodes with the KV pool between them: prefixes, and every fault of a slot."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from ensemble.kv.pool import Handle
from ensemble.nodes.ranking import Ranked
from ensemble.owners import owners_of
from tests.conftest import Exported
from tests.support.node_chain import (
    MAX_HISTORY,
    Chain,
    Tensors,
    assert_same_answers,
    counted,
    inline,
    made_up,
    on_entry,
    sources,
    stored,
    users_of_many_lengths,
)
from tests.support.pool_content import content_of, slot_content
from unipinrec.models.common.tokens import Events


def test_a_pool_too_small_for_the_batch_recomputes_the_rest(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    users = users_of_many_lengths(exported)[:4]
    roomy, tight = make_any_chain(), make_any_chain(pool_slots=1)
    expected = roomy(stored(exported, users))
    answers = tight(stored(exported, users))
    assert sources(expected) == ["prefill"] * len(users)
    assert sources(answers) == ["prefill"] + ["recomputed"] * (len(users) - 1)
    assert_same_answers(answers, expected)


def test_leases_that_are_never_released_turn_later_requests_to_recomputing(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain(pool_slots=2)
    expected = [chain(stored(exported, [user])) for user in range(4)]
    assert [sources(answer) for answer in expected] == [["prefill"]] * 4
    abandoned = [chain.before_ranking(stored(exported, [user])) for user in (8, 9)]
    for user in range(4):
        answer = chain(stored(exported, [user]))
        assert sources(answer) == ["recomputed"]
        assert_same_answers(answer, expected[user])
    assert [sources(chain.rank(tensors)) for tensors in abandoned] == [["prefill"]] * 2
    assert sources(chain(stored(exported, [0]))) == ["prefill"]


@pytest.mark.parametrize("column", ["epoch", "slot", "generation", "length"])
def test_a_handle_that_does_not_hold_is_recomputed_with_equal_scores(
    make_any_chain: Callable[..., Chain], exported: Exported, column: str
) -> None:
    chain = make_any_chain()
    tensors = chain.before_ranking(stored(exported, [5, 6, 7]))
    expected = chain.rank(tensors)
    place = ("epoch", "slot", "generation", "length").index(column)
    stale = [list(handle) for handle in chain.handles(tensors)]
    stale[1][place] += 1
    answers = chain.rank(chain.with_handles(tensors, [Handle(*fields) for fields in stale]))
    assert sources(answers) == ["prefill", "recomputed", "prefill"]
    assert_same_answers(answers, expected)


def test_a_valid_handle_of_a_history_of_another_length_is_not_used(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain()
    users = users_of_many_lengths(exported)[:3]
    tensors = chain.before_ranking(stored(exported, users))
    handles = chain.handles(tensors)
    assert len({handle.length for handle in handles}) == 3
    expected = chain.rank(tensors)
    answers = chain.rank(chain.with_handles(tensors, [handles[place] for place in (1, 0, 2)]))
    assert sources(answers) == ["recomputed", "recomputed", "prefill"]
    assert_same_answers(answers, expected)


def test_a_slot_reused_before_ranking_is_recomputed(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain(pool_slots=1)
    tensors = chain.before_ranking(stored(exported, [5]))
    expected = chain.rank(tensors)
    other = chain.before_ranking(stored(exported, [6]))
    answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed"]
    assert_same_answers(answers, expected)
    assert sources(chain.rank(other)) == ["prefill"]


def test_a_slot_reused_during_ranking_is_recomputed(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain(pool_slots=1)
    expected = chain(stored(exported, [5]))
    tensors = chain.before_ranking(stored(exported, [5]))
    (handle,) = chain.handles(tensors)

    def reuse() -> None:
        chain.pool_of(handle).release(handle)
        chain.before_ranking(stored(exported, [6]))

    with on_entry(chain.ranking, reuse):
        answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed"]
    assert_same_answers(answers, expected)


@pytest.mark.parametrize("during", [False, True])
def test_a_user_who_is_deleted_while_a_request_is_under_way_is_wiped_and_answered(
    make_any_chain: Callable[..., Chain], exported: Exported, during: bool
) -> None:
    chain = make_any_chain(pool_slots=2)
    gone, other = users_of_many_lengths(exported)[:2]
    expected = chain(stored(exported, [gone, other]))
    # The third finds no slot, and is encoded into a spare one.
    tensors = chain.before_ranking(stored(exported, [gone, other, 5]))
    handles = chain.handles(tensors)
    assert handles[2].epoch == 0
    owners = owners_of(str(exported.dataset.user_ids_U[gone]).encode())

    def forget() -> None:
        chain.retrieval.forget(owners)

    if not during:
        forget()
    with on_entry(chain.ranking, forget) if during else nullcontext():
        answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed", "prefix", "recomputed"]
    assert_same_answers({name: array[:2] for name, array in answers.items()}, expected)
    storage = chain.pool_of(handles[0]).storage
    assert not slot_content(storage, handles[0].slot, MAX_HISTORY + 1).any()
    assert slot_content(storage, handles[1].slot, handles[1].length).any()
    assert counted(chain.retrieval, "unipinrec_kv_wiped_total") == 1
    assert sources(chain(stored(exported, [gone, other]))) == ["prefill", "prefix"]


def test_a_restarted_retrieval_instance_makes_older_handles_stale(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain()
    tensors = chain.before_ranking(stored(exported, [5]))
    expected = chain(stored(exported, [5]))
    chain.restart_retrieval()
    assert sources(chain(stored(exported, [6]))) == ["prefill"]
    answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed"]
    assert_same_answers(answers, expected)


def test_what_lies_in_a_slot_behind_the_history_is_never_read(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain()
    users = [
        user
        for user in users_of_many_lengths(exported)
        if len(exported.dataset.history(user).item_row_N) < 100
    ]
    expected = chain(stored(exported, users))
    tensors = chain.before_ranking(stored(exported, users))
    for handle in chain.handles(tensors):
        whole = content_of(chain.pool_of(handle), handle._replace(length=MAX_HISTORY + 1))
        whole[:, :, :, handle.length :] = float("nan")
    answers = chain.rank(tensors)
    assert sources(answers) == ["prefix"] * len(users)
    assert_same_answers(answers, expected)


def test_a_slot_shows_what_the_model_computes_in_its_filled_positions(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain()
    history = made_up(3, 9)
    tensors = chain.before_ranking(inline(exported, history, 0))
    (handle,) = chain.handles(tensors)
    assert handle.length == 10
    model = exported.model
    columns = (history.actions_N, history.timestamp_N, history.surface_N)
    with torch.no_grad():
        actions, *rest = (torch.from_numpy(column)[None] for column in columns)
        vectors = model.embedder(torch.from_numpy(history.item_row_N)[None])
        _, past_L2BHTD = model.encode(Events(vectors, actions, *rest, actions < 0))
    assert (content_of(chain.pool_of(handle), handle) - past_L2BHTD[:, :, 0]).abs().max() < 1e-5


def test_answers_do_not_depend_on_the_slots_history_of_use(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain(pool_slots=1)
    first: dict[int, Tensors] = {}
    for user in [*range(6), *reversed(range(5))]:
        answer = chain(stored(exported, [user]))
        assert sources(answer) == ["prefill"]
        assert_same_answers(answer, first.setdefault(user, answer))


def test_an_equal_request_gets_an_equal_answer_from_its_prefix(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    users = users_of_many_lengths(exported)
    chain = make_any_chain(pool_slots=len(users))
    first = chain(stored(exported, users))
    again = chain(stored(exported, users))
    assert sources(first) == ["prefill"] * len(users)
    assert sources(again) == ["prefix"] * len(users)
    assert_same_answers(again, first)


def test_a_longer_history_of_the_same_user_computes_its_last_events_only(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain, fresh = make_any_chain(), make_any_chain()
    history = made_up(8, 120)
    chain(inline(exported, history[:100], 0))
    tensors = chain.before_ranking(inline(exported, history, 0))
    computed = counted(chain.retrieval, "unipinrec_positions_total", kind="computed")
    again = chain.before("retrieval", inline(exported, history, 0))
    chain.retrieval.run(chain.retrieval.parse(again))
    assert counted(chain.retrieval, "unipinrec_positions_total", kind="computed") == computed
    assert chain.handles(tensors)[0].reused == 101
    answer = chain.rank(tensors)
    assert sources(answer) == ["prefix"]
    assert_same_answers(answer, fresh(inline(exported, history, 0)))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_rounded_keys_and_values_answer_nearly_alike(
    make_chain: Callable[..., Chain], exported: Exported, precision: str
) -> None:
    exact, rounded = make_chain(), make_chain(kv_precision=precision)
    users = users_of_many_lengths(exported)
    for expected_source in ("prefill", "prefix"):
        expected = exact(stored(exported, users, 128))
        tensors = exact.before_ranking(stored(exported, users, 128))
        handles = rounded.handles(rounded.before_ranking(stored(exported, users, 128)))
        answers = rounded.rank(rounded.with_handles(tensors, handles))
        assert sources(answers) == [expected_source] * len(users)
        for row in range(len(users)):
            by_item = [
                dict(zip(found["ITEM_IDS"][row].tolist(), found["ACTION_PROBS"][row], strict=True))
                for found in (expected, answers)
            ]
            assert by_item[0].keys() == by_item[1].keys()
            for item, probabilities in by_item[0].items():
                assert np.abs(probabilities - by_item[1][item]).max() < 0.05


def test_metrics_count_where_keys_and_values_came_from(
    make_any_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_any_chain(pool_slots=1)
    request = stored(exported, [1, 2, 3])
    tensors = chain.before_ranking(request)
    handles = chain.handles(tensors)
    assert [handle.epoch > 0 for handle in handles] == [True, False, False]
    ranked: list[Ranked] = chain.ranking.run(chain.ranking.parse(tensors))
    assert counted(chain.ranking, "unipinrec_kv_source_total", source="prefill") == 1
    assert counted(chain.ranking, "unipinrec_kv_source_total", source="recomputed") == 2
    assert len(ranked) == 3
    assert counted(chain.retrieval, "unipinrec_kv_pool_full_total") == 2
    chain.retrieval.run(chain.retrieval.parse(chain.before("retrieval", request)))
    assert counted(chain.retrieval, "unipinrec_kv_pool_full_total") == 4
    assert counted(chain.retrieval, "unipinrec_positions_total", kind="reused") == handles[0].length
    assert counted(chain.retrieval, "unipinrec_kv_slots_in_use") == 1
    tight = make_any_chain(pool_slots=1)
    for user, evicted in ((1, 0), (1, 0), (2, 1), (1, 2)):
        tight(stored(exported, [user]))
        assert counted(tight.retrieval, "unipinrec_kv_evictions_total") == evicted
    found = chain.ann.run(chain.ann.parse(chain.before("ann", request)))
    assert sum(len(candidates.item_row_K) for candidates in found) == 3 * 2 * 20
    assert counted(chain.ann, "unipinrec_candidates_count") == 6
    assert counted(chain.ann, "unipinrec_candidates_sum") == 2 * 3 * 2 * 20
