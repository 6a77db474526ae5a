"""The nodes chained in one process, against offline PyTorch and through every fault of the KV pool."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.executors.torchscript.scorer import stacked
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import BundleMismatchError, InvalidInputError
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.seal import VOUCHED, StaleSealError
from tests.conftest import ITEMS, NOW, Exported
from tests.support.node_chain import (
    MAX_HISTORY,
    WINDOW_BLOCK,
    Chain,
    assert_answered,
    assert_same_answers,
    counted,
    inline,
    made_up,
    offline,
    sources,
    stored,
    surface_of,
    users_of_many_lengths,
)
from tests.support.seals import resealed, sealed
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

LOWEST = np.finfo(np.float32).min


def test_answers_equal_offline_pytorch_for_histories_of_many_lengths(
    long_lived: Chain, exported: Exported
) -> None:
    users = users_of_many_lengths(exported)
    histories = [exported.dataset.history(user) for user in users]
    lengths = sorted(len(history.item_row_N) for history in histories)
    assert lengths[0] < 5
    assert lengths[-1] > MAX_HISTORY
    expected = offline(exported, histories, [surface_of(user) for user in users])
    answers = long_lived(stored(exported, users))
    assert [len(answer.items) for answer in expected] == [20] * len(users)
    assert_answered(answers, expected)
    assert sources(answers) == ["prefill"] * len(users)


@pytest.mark.parametrize(("lengths", "width"), [([0], 16), ([1, 16], 16), ([3, 0, 17], 32)])
def test_candidates_of_a_batch_are_padded_to_a_few_widths(lengths: list[int], width: int) -> None:
    rows = [np.arange(1, length + 1) for length in lengths]
    row_BK = stacked(rows, 16)
    assert row_BK.shape == (len(lengths), width)
    for row_K, row in zip(row_BK, rows, strict=True):
        assert row_K[: len(row)].tolist() == row.tolist()


@pytest.mark.parametrize("num_results", [1, 5, 128])
def test_as_many_results_are_ranked_as_offline_pytorch_ranks(
    long_lived: Chain, exported: Exported, num_results: int
) -> None:
    users = [3, 4]
    histories = [exported.dataset.history(user) for user in users]
    expected = offline(exported, histories, [surface_of(user) for user in users], num_results)
    answers = long_lived(stored(exported, users, num_results))
    assert_answered(answers, expected)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 160, 161, 300])
def test_the_window_of_a_long_history_moves_in_blocks(
    long_lived: Chain, exported: Exported, length: int
) -> None:
    history = made_up(length, length)
    answers = long_lived(inline(exported, history, 1))
    dropped = 0
    while length - dropped > MAX_HISTORY:
        dropped += WINDOW_BLOCK
    window = history[dropped:]
    seen = exported.dataset.item_ids_V[history.item_row_N]
    assert not set(answers["ITEM_IDS"][0].tolist()) & set(seen.tolist())
    windowed = long_lived(inline(exported, window, 1, EXCLUDE_ITEM_IDS=seen[None]))
    assert_same_answers(answers, windowed)
    assert_answered(answers, offline(exported, [history], [1]))


def test_a_batch_of_mixed_lengths_equals_its_rows_alone(long_lived: Chain, exported: Exported) -> None:
    users = users_of_many_lengths(exported)
    together = long_lived(stored(exported, users))
    for row, user in enumerate(users):
        alone = long_lived(stored(exported, [user]))
        assert_same_answers({name: tensor[row : row + 1] for name, tensor in together.items()}, alone)


def test_users_of_a_batch_keep_their_own_number_of_results(long_lived: Chain, exported: Exported) -> None:
    request = stored(exported, [0, 1, 2])
    request["NUM_RESULTS"] = np.array([[2], [5], [1]], np.int64)
    answers = long_lived(request)
    assert (answers["ITEM_IDS"] != -1).sum(axis=1).tolist() == [2, 5, 1]
    for row, count in enumerate([2, 5, 1]):
        alone = long_lived(stored(exported, [row], count))
        assert_same_answers({name: tensor[row : row + 1] for name, tensor in answers.items()}, alone)
        assert (answers["SCORES"][row, count:] == LOWEST).all()
        assert not answers["ACTION_PROBS"][row, count:].any()
        assert not answers["RETRIEVED_BY"][row, count:].any()


def test_a_stored_history_counts_as_the_same_one_sent(long_lived: Chain, exported: Exported) -> None:
    for user in users_of_many_lengths(exported):
        sent = long_lived(inline(exported, exported.dataset.history(user), surface_of(user)))
        assert_same_answers(sent, long_lived(stored(exported, [user])))


def test_an_unknown_user_is_answered_as_an_empty_history(long_lived: Chain, exported: Exported) -> None:
    request = stored(exported, [0])
    request["USER_ID"][0, 0] = b"never seen"
    empty = long_lived(inline(exported, made_up(0, 0), 0))
    assert_same_answers(long_lived(request), empty)


def test_events_of_unknown_items_are_left_out_of_a_history(long_lived: Chain, exported: Exported) -> None:
    history = made_up(2, 12)
    request = inline(exported, history, 0)
    unknown = [0, 5, 11]
    request["HISTORY_ITEM_IDS"][0, unknown] = [1, 10**9, -2]
    known = np.setdiff1d(np.arange(12), unknown)
    shorter = history[known]
    assert_same_answers(long_lived(request), long_lived(inline(exported, shorter, 0)))
    before = counted(long_lived.history, "unipinrec_unknown_items_total")
    long_lived.history.run(long_lived.history.parse(request))
    assert counted(long_lived.history, "unipinrec_unknown_items_total") == before + 3


def test_everything_excluded_answers_with_no_item(long_lived: Chain, exported: Exported) -> None:
    request = stored(exported, [0, 1])
    everything = exported.dataset.item_ids_V
    request["EXCLUDE_ITEM_IDS"] = np.stack([everything, np.full_like(everything, -1)])
    answers = long_lived(request)
    assert (answers["ITEM_IDS"][0] == -1).all()
    assert (answers["SCORES"][0] == LOWEST).all()
    alone = long_lived(stored(exported, [1]))
    assert_same_answers({name: tensor[1:] for name, tensor in answers.items()}, alone)


def test_the_largest_weights_give_finite_scores(long_lived: Chain, exported: Exported) -> None:
    request = stored(exported, [0])
    request["UTILITY_WEIGHTS"] = np.full((1, 3), 1e30, np.float32)
    scores = long_lived(request)["SCORES"]
    assert np.isfinite(scores).all()
    assert scores.max() > 1e28


def test_utility_weights_decide_the_order_and_equal_scores_fall_back_to_item_ids(
    long_lived: Chain, exported: Exported
) -> None:
    request = stored(exported, [7])
    weights = np.array([[0.0, 0.25, 2.0]], np.float32)
    answers = long_lived({**request, "UTILITY_WEIGHTS": weights})
    scores = answers["ACTION_PROBS"][0].astype(np.float64) @ weights[0].astype(np.float64)
    assert np.allclose(answers["SCORES"][0], scores, rtol=0, atol=1e-6)
    assert (np.diff(answers["SCORES"][0]) <= 0).all()
    tied = long_lived({**request, "UTILITY_WEIGHTS": np.zeros((1, 3), np.float32)})
    assert tied["ITEM_IDS"][0].tolist() == sorted(tied["ITEM_IDS"][0].tolist())
    assert not tied["SCORES"].any()


def test_the_baseline_answers_alike_and_encodes_every_history_twice(
    make_chain: Callable[..., Chain], loaded: LoadedBundle, exported: Exported
) -> None:
    chain, separate = make_chain(), make_chain()
    separate.retrieval.close()
    separate.retrieval = RetrievalNode(loaded, separate.settings, CpuEngine(loaded, "float32"))
    users = users_of_many_lengths(exported)
    for _ in range(2):
        answers = separate(stored(exported, users))
        assert sources(answers) == ["recomputed"] * len(users)
        assert_same_answers(answers, chain(stored(exported, users)))
    assert not list(separate.settings.runtime_dir.glob("*"))


SEALS = [
    ("retrieval", "SEALED_HISTORY"),
    ("ann", "SEALED_LEFT_OUT"),
    ("ann", "QUERY_SEAL"),
    ("ranking", "SEALED_HISTORY"),
    ("ranking", "KV_HANDLE"),
    ("ranking", "CANDIDATE_SEAL"),
    ("scoring", "CANDIDATE_SEAL"),
    ("scoring", "PROBS_SEAL"),
    ("scoring", "POLICY_TICKET"),
]


@pytest.mark.parametrize(("node", "name"), SEALS)
def test_every_node_refuses_what_another_bundle_made(
    long_lived: Chain, loaded: LoadedBundle, exported: Exported, node: str, name: str
) -> None:
    tensors = long_lived.before_any(node, stored(exported, [0, 1]))
    other = (
        sealed("older-00", tensors, name)
        if name in VOUCHED
        else sealed("older-00", tensors, **{name: [b""] * 2})
    )
    message = f"^{name} is of bundle older-00; this node serves {loaded.id}"
    with pytest.raises(BundleMismatchError, match=message):
        getattr(long_lived, node).parse({**tensors, name: other[name]})


@pytest.mark.parametrize(("node", "name"), SEALS)
def test_what_is_not_as_it_was_sealed_is_refused(
    long_lived: Chain, exported: Exported, node: str, name: str
) -> None:
    tensors, again = (long_lived.before_any(node, stored(exported, [0, 1])) for _ in range(2))
    (first,), (second,) = tensors[name]
    others = [b"", b"x", first[:40], first[:-1], first + b"x", bytes(len(first))]
    others += [first[:place] + bytes([first[place] ^ 1]) + first[place + 1 :] for place in (0, 16, 20, 60)]
    if node != "retrieval":
        # Those of another user of the request, and of another request: all of a row have to be of one.
        others += [second, again[name][0, 0]]
    for other in others:
        array = np.array([[other], [second]], np.object_)
        with pytest.raises(InvalidInputError, match="was not sealed by this server for this request; inner"):
            getattr(long_lived, node).parse({**tensors, name: array})


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("ann", "QUERY_EMBEDDINGS"),
        ("ann", "QUERY_BUDGETS"),
        ("ann", "QUERY_ORIGINS"),
        ("ranking", "CANDIDATE_ITEMS"),
        ("scoring", "CANDIDATE_ITEMS"),
        ("scoring", "CANDIDATE_PROBS"),
    ],
)
def test_what_may_be_read_cannot_be_changed(
    long_lived: Chain, exported: Exported, node: str, name: str
) -> None:
    tensors = long_lived.before_any(node, stored(exported, [0, 1]))
    array = tensors[name].copy()
    array.flat[-1] = 7
    for changed in (array, tensors[name][:, :-1], tensors[name].astype(np.float64)):
        with pytest.raises(InvalidInputError, match="was not sealed by this server for this request"):
            getattr(long_lived, node).parse({**tensors, name: changed})


@pytest.mark.parametrize("node", ["retrieval", "ann", "ranking", "scoring"])
def test_what_was_sealed_long_ago_is_refused(
    long_lived: Chain, exported: Exported, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = long_lived.before_any(node, stored(exported, [0]))
    late = time.monotonic_ns() + 31 * 10**9
    monkeypatch.setattr(time, "monotonic_ns", lambda: late)
    with pytest.raises(StaleSealError, match=r"^the request was checked 31\.\d s ago; allowed: 30 s$"):
        getattr(long_lived, node).parse(tensors)


def test_the_first_and_the_last_item_are_ranked_as_offline_pytorch_ranks_them(
    long_lived: Chain, loaded: LoadedBundle, exported: Exported
) -> None:
    history, ends = made_up(4, 9), np.array([0, ITEMS - 1])
    tensors = long_lived.before_ranking(inline(exported, history, 1))
    changed = {"CANDIDATE_ITEMS": ends[None], "CANDIDATE_ORIGINS": np.zeros((1, 2), np.int32)}
    ranked = long_lived.rank(resealed(loaded.id, tensors, changed))
    (expected_KA,) = OfflineRecommender(exported.model).action_probabilities(
        [OfflineRequest(history=history, request_time=NOW, surface=1)], [ends]
    )
    order = np.argsort(ranked["ITEM_IDS"][0])
    assert ranked["ITEM_IDS"][0, order].tolist() == exported.dataset.item_ids_V[ends].tolist()
    assert np.abs(ranked["ACTION_PROBS"][0, order] - expected_KA.numpy()).max() < 1e-5


def test_candidates_and_their_origins_must_be_as_many(long_lived: Chain, exported: Exported) -> None:
    tensors = long_lived.before_ranking(stored(exported, [0]))
    tensors["CANDIDATE_ORIGINS"] = tensors["CANDIDATE_ORIGINS"][:, 1:]
    message = "^CANDIDATE_ORIGINS has another shape than CANDIDATE_ITEMS; allowed: the same$"
    with pytest.raises(InvalidInputError, match=message):
        long_lived.rank(tensors)
