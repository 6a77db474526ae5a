"""The four nodes chained in one process, against offline PyTorch and through every fault of the KV pool."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ensemble.ann import AnnNode
from ensemble.contract import BundleMismatchError
from ensemble.history import HistoryNode
from ensemble.kv_pool import Handle, MappedPool, PoolDirectory
from ensemble.loaded_bundle import LoadedBundle
from ensemble.node import Node
from ensemble.ranking import Ranked, RankingNode, RankingRow
from ensemble.retrieval import RetrievalNode
from ensemble.settings import ServingSettings
from tests.conftest import ACTIONS, ITEMS, SURFACES, USERS, Exported
from unipinrec.bundle import read_manifest
from unipinrec.data.history import History
from unipinrec.offline import OfflineAnswer, OfflineRecommender, OfflineRequest

NOW = 1_750_000_000
UTILITY = (1.0, 0.5, 0.0)
MAX_HISTORY, WINDOW_BLOCK = 128, 32

Tensors = dict[str, NDArray[Any]]


class Chain:
    """What Triton does between the nodes: renames tensors and passes them on."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, history: HistoryNode) -> None:
        self.settings = settings
        self.history = history
        self.retrieval = RetrievalNode(loaded, settings, "retrieval_0")
        self.ann = AnnNode(loaded, settings)
        self.ranking = RankingNode(loaded, settings)

    def close(self) -> None:
        for node in (self.retrieval, self.ann, self.ranking):
            node.close()

    def before_ranking(self, request: Tensors) -> Tensors:
        """All tensors that ranking reads, made by the three nodes before it."""
        tensors = self.history.pack(self.history.run(self.history.parse(request)))
        for name in list(tensors):
            tensors[name.removeprefix("RESOLVED_")] = tensors[name]
        tensors.update(self.retrieval.pack(self.retrieval.run(self.retrieval.parse(tensors))))
        tensors.update(self.ann.pack(self.ann.run(self.ann.parse(tensors))))
        return tensors

    def rank(self, tensors: Tensors) -> Tensors:
        return self.ranking.pack(self.ranking.run(self.ranking.parse(tensors)))

    def __call__(self, request: Tensors) -> Tensors:
        return self.rank(self.before_ranking(request))

    def pool_of(self, handle: Handle) -> MappedPool:
        pool = PoolDirectory(self.settings.runtime_dir).find(handle)
        assert pool is not None
        return pool


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


@pytest.fixture(scope="module")
def history_node(loaded: LoadedBundle) -> Iterator[HistoryNode]:
    """One for the module: a process may open a history store once."""
    node = HistoryNode(loaded, ServingSettings())
    yield node
    node.close()


@pytest.fixture
def make_chain(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path: Path
) -> Iterator[Callable[..., Chain]]:
    made: list[Chain] = []

    def make(**settings: Any) -> Chain:
        folder = tmp_path / f"runtime-{len(made)}"
        chosen = ServingSettings(runtime_dir=folder, lease_ms=60_000, **settings)
        made.append(Chain(loaded, chosen, history_node))
        return made[-1]

    yield make
    for chain in made:
        chain.close()


@pytest.fixture(scope="module")
def long_lived(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    settings = ServingSettings(runtime_dir=tmp_path_factory.mktemp("runtime"), lease_ms=60_000)
    chain = Chain(loaded, settings, history_node)
    yield chain
    chain.close()


def surface_of(user: int) -> int:
    return user % len(SURFACES)


def stored(exported: Exported, users: Sequence[int], num_results: int = 20) -> Tensors:
    """A request of these users that relies on their stored histories."""
    ids = [str(exported.dataset.user_ids_U[user]).encode() for user in users]
    return {
        "USER_ID": np.array([[user_id] for user_id in ids], np.object_),
        "REQUEST_TIME": np.full((len(users), 1), NOW),
        "SURFACE": np.array([[surface_of(user)] for user in users], np.int32),
        "NUM_RESULTS": np.full((len(users), 1), num_results, np.int32),
    }


def inline(exported: Exported, history: History, surface: int, **tensors: NDArray[Any]) -> Tensors:
    """A request of an unknown user who sends a history."""
    return {
        "USER_ID": np.array([[b"nobody"]], np.object_),
        "HISTORY_ITEM_IDS": exported.dataset.item_ids_V[history.item_row_N][None],
        "HISTORY_ACTIONS": history.actions_N[None],
        "HISTORY_TIMESTAMPS": history.timestamp_N[None],
        "HISTORY_SURFACES": history.surface_N[None].astype(np.int32),
        "REQUEST_TIME": np.array([[NOW]]),
        "SURFACE": np.array([[surface]], np.int32),
        "NUM_RESULTS": np.array([[20]], np.int32),
        **tensors,
    }


def offline(
    exported: Exported, histories: Sequence[History], surfaces: Sequence[int], num_results: int = 20
) -> list[OfflineAnswer]:
    requests = [
        OfflineRequest(history=history, request_time=NOW, surface=surface)
        for history, surface in zip(histories, surfaces, strict=True)
    ]
    return OfflineRecommender(exported.model).recommend(
        requests, num_results, read_manifest(exported.bundle).defaults
    )


def made_up(seed: int, length: int) -> History:
    draw = np.random.default_rng(seed)
    return History(
        item_row_N=draw.integers(ITEMS, size=length),
        actions_N=draw.integers(1, 2 ** len(ACTIONS), size=length),
        surface_N=draw.integers(len(SURFACES), size=length),
        timestamp_N=1_700_000_000 + draw.integers(9_000, size=length).cumsum(),
    )


def users_of_many_lengths(exported: Exported) -> list[int]:
    """The users of the shortest, the longest and six lengths between, in no order of length."""
    by_length = np.argsort(np.diff(exported.dataset.offset_U1), kind="stable")
    return [int(by_length[place]) for place in (200, 0, USERS - 1, 60, 250, 120, 20, 290)]


def assert_same_answers(found: Tensors, expected: Tensors) -> None:
    assert found["ITEM_IDS"].tolist() == expected["ITEM_IDS"].tolist()
    assert np.abs(found["ACTION_PROBS"] - expected["ACTION_PROBS"]).max() < 1e-5
    assert np.allclose(found["SCORES"], expected["SCORES"], rtol=0, atol=1e-5)


def sources(answers: Tensors) -> list[str]:
    return [source.decode() for source in answers["KV_SOURCE"][:, 0]]


@contextmanager
def on_entry(ranking: RankingNode, act: Callable[[], None]) -> Iterator[None]:
    """Run `act` between ranking's check of the slots and its first forward over them."""
    score, pending = ranking._score, [act]

    def score_after(rows: Sequence[RankingRow], past: list[torch.Tensor]) -> list[NDArray[np.float32]]:
        if pending:
            pending.pop()()
        return score(rows, past)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_score", score_after)
        yield


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
    for row, answer in enumerate(expected):
        count = len(answer.item_row_K)
        assert count == 20
        assert answers["ITEM_IDS"][row].tolist() == exported.dataset.item_ids_V[answer.item_row_K].tolist()
        assert np.abs(answers["ACTION_PROBS"][row] - answer.probability_KA).max() < 1e-5
        assert np.abs(answers["SCORES"][row] - answer.score_K).max() < 1e-5
    assert sources(answers) == ["prefill"] * len(users)


@pytest.mark.parametrize("num_results", [1, 5, 128])
def test_as_many_results_are_ranked_as_offline_pytorch_ranks(
    long_lived: Chain, exported: Exported, num_results: int
) -> None:
    users = [3, 4]
    histories = [exported.dataset.history(user) for user in users]
    expected = offline(exported, histories, [surface_of(user) for user in users], num_results)
    answers = long_lived(stored(exported, users, num_results))
    for row, answer in enumerate(expected):
        assert answers["ITEM_IDS"][row].tolist() == exported.dataset.item_ids_V[answer.item_row_K].tolist()


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
    (expected,) = offline(exported, [history], [1])
    assert answers["ITEM_IDS"][0].tolist() == exported.dataset.item_ids_V[expected.item_row_K].tolist()


def test_a_batch_of_mixed_lengths_equals_its_rows_alone(long_lived: Chain, exported: Exported) -> None:
    users = users_of_many_lengths(exported)
    together = long_lived(stored(exported, users))
    for row, user in enumerate(users):
        alone = long_lived(stored(exported, [user]))
        assert_same_answers({name: tensor[row : row + 1] for name, tensor in together.items()}, alone)


def test_users_of_a_batch_keep_their_own_number_of_results(long_lived: Chain, exported: Exported) -> None:
    request = stored(exported, [0, 1, 2])
    request["NUM_RESULTS"] = np.array([[2], [5], [1]], np.int32)
    answers = long_lived(request)
    assert (answers["ITEM_IDS"] != -1).sum(axis=1).tolist() == [2, 5, 1]
    for row, count in enumerate([2, 5, 1]):
        alone = long_lived(stored(exported, [row], count))
        assert answers["ITEM_IDS"][row].tolist() == alone["ITEM_IDS"][0].tolist() + [-1] * (5 - count)
        assert np.isneginf(answers["SCORES"][row, count:]).all()
        assert not answers["ACTION_PROBS"][row, count:].any()
        assert not answers["RETRIEVED_BY"][row, count:].any()


def test_a_stored_history_counts_as_the_same_one_sent(long_lived: Chain, exported: Exported) -> None:
    for user in users_of_many_lengths(exported):
        sent = long_lived(inline(exported, exported.dataset.history(user), surface_of(user)))
        for name, tensor in long_lived(stored(exported, [user])).items():
            assert np.array_equal(sent[name], tensor), name


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
    assert np.isneginf(answers["SCORES"][0]).all()
    assert answers["ITEM_IDS"][1].tolist() == long_lived(stored(exported, [1]))["ITEM_IDS"][0].tolist()


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


def test_a_pool_too_small_for_the_batch_recomputes_the_rest(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    users = users_of_many_lengths(exported)
    roomy, tight = make_chain(), make_chain(pool_slots=1)
    expected = roomy(stored(exported, users))
    answers = tight(stored(exported, users))
    assert sources(expected) == ["prefill"] * len(users)
    assert sources(answers) == ["prefill"] + ["recomputed"] * (len(users) - 1)
    assert_same_answers(answers, expected)


def test_leases_that_are_never_released_turn_later_requests_to_recomputing(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain(pool_slots=2)
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
    make_chain: Callable[..., Chain], exported: Exported, column: str
) -> None:
    chain = make_chain()
    tensors = chain.before_ranking(stored(exported, [5, 6, 7]))
    expected = chain.rank(tensors)
    place = ("epoch", "slot", "generation", "length").index(column)
    stale = tensors["KV_HANDLE"].copy()
    stale[1, place] += 1
    answers = chain.rank({**tensors, "KV_HANDLE": stale})
    assert sources(answers) == ["prefill", "recomputed", "prefill"]
    assert_same_answers(answers, expected)


def test_a_valid_handle_of_a_history_of_another_length_is_not_used(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain()
    users = users_of_many_lengths(exported)[:3]
    tensors = chain.before_ranking(stored(exported, users))
    handles = tensors["KV_HANDLE"]
    assert len(set(handles[:, 3].tolist())) == 3
    expected = chain.rank(tensors)
    answers = chain.rank({**tensors, "KV_HANDLE": handles[[1, 0, 2]]})
    assert sources(answers) == ["recomputed", "recomputed", "prefill"]
    assert_same_answers(answers, expected)


def test_a_slot_reused_before_ranking_is_recomputed(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain(pool_slots=1)
    tensors = chain.before_ranking(stored(exported, [5]))
    expected = chain.rank(tensors)
    other = chain.before_ranking(stored(exported, [6]))
    answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed"]
    assert_same_answers(answers, expected)
    assert sources(chain.rank(other)) == ["prefill"]


def test_a_slot_reused_during_ranking_is_recomputed(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain(pool_slots=1)
    expected = chain(stored(exported, [5]))
    tensors = chain.before_ranking(stored(exported, [5]))
    handle = Handle.from_array(tensors["KV_HANDLE"][0])

    def reuse() -> None:
        chain.pool_of(handle).release(handle)
        chain.before_ranking(stored(exported, [6]))

    with on_entry(chain.ranking, reuse):
        answers = chain.rank(tensors)
    assert sources(answers) == ["recomputed"]
    assert_same_answers(answers, expected)


def test_a_restarted_retrieval_instance_makes_older_handles_stale(
    make_chain: Callable[..., Chain], loaded: LoadedBundle, exported: Exported
) -> None:
    chain = make_chain()
    tensors = chain.before_ranking(stored(exported, [5]))
    expected = chain(stored(exported, [5]))
    chain.retrieval = RetrievalNode(loaded, chain.settings, "retrieval_0")
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
    for array in tensors["KV_HANDLE"]:
        handle = Handle.from_array(array)
        whole = chain.pool_of(handle).view(replace(handle, length=MAX_HISTORY + 1))
        whole[:, :, :, handle.length :] = float("nan")
    answers = chain.rank(tensors)
    assert sources(answers) == ["prefix"] * len(users)
    for name in ("ITEM_IDS", "SCORES", "ACTION_PROBS"):
        assert np.array_equal(answers[name], expected[name]), name


def test_a_slot_shows_what_the_model_computes_in_its_filled_positions(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain()
    history = made_up(3, 9)
    tensors = chain.before_ranking(inline(exported, history, 0))
    handle = Handle.from_array(tensors["KV_HANDLE"][0])
    assert handle.length == 10
    model = exported.model
    columns = (history.actions_N, history.timestamp_N, history.surface_N)
    with torch.no_grad():
        _, past_L2BHTD = model.encode(
            model.embedder(torch.from_numpy(history.item_row_N)[None]),
            *(torch.from_numpy(column)[None] for column in columns),
        )
    assert (chain.pool_of(handle).view(handle) - past_L2BHTD[:, :, 0]).abs().max() < 1e-5


def test_answers_do_not_depend_on_the_slots_history_of_use(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain(pool_slots=1)
    first: dict[int, Tensors] = {}
    for user in [*range(6), *reversed(range(5))]:
        answer = chain(stored(exported, [user]))
        assert sources(answer) == ["prefill"]
        for name, tensor in first.setdefault(user, answer).items():
            assert np.array_equal(tensor, answer[name]), name


def test_an_equal_request_gets_an_equal_answer_from_its_prefix(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain()
    users = users_of_many_lengths(exported)
    first = chain(stored(exported, users))
    again = chain(stored(exported, users))
    assert sources(first) == ["prefill"] * len(users)
    assert sources(again) == ["prefix"] * len(users)
    for name in first.keys() - {"KV_SOURCE"}:
        assert np.array_equal(first[name], again[name]), name


def test_a_longer_history_of_the_same_user_computes_its_last_events_only(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain, fresh = make_chain(), make_chain()
    history = made_up(8, 120)
    chain(inline(exported, history[:100], 0))
    tensors = chain.before_ranking(inline(exported, history, 0))
    computed = counted(chain.retrieval, "unipinrec_positions_total", kind="computed")
    chain.retrieval.run(chain.retrieval.parse(tensors))
    assert counted(chain.retrieval, "unipinrec_positions_total", kind="computed") == computed
    assert Handle.from_array(tensors["KV_HANDLE"][0]).reused == 101
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
        handles = rounded.before_ranking(stored(exported, users, 128))["KV_HANDLE"]
        answers = rounded.rank({**tensors, "KV_HANDLE": handles})
        assert sources(answers) == [expected_source] * len(users)
        for row in range(len(users)):
            by_item = [
                dict(zip(one["ITEM_IDS"][row].tolist(), one["ACTION_PROBS"][row], strict=True))
                for one in (expected, answers)
            ]
            assert by_item[0].keys() == by_item[1].keys()
            for item, probabilities in by_item[0].items():
                assert np.abs(probabilities - by_item[1][item]).max() < 0.05


def test_the_baseline_answers_alike_and_encodes_every_history_twice(
    make_chain: Callable[..., Chain], loaded: LoadedBundle, exported: Exported
) -> None:
    chain, separate = make_chain(), make_chain()
    separate.retrieval.close()
    separate.retrieval = RetrievalNode(loaded, separate.settings)
    users = users_of_many_lengths(exported)
    for _ in range(2):
        answers = separate(stored(exported, users))
        assert sources(answers) == ["recomputed"] * len(users)
        assert_same_answers(answers, chain(stored(exported, users)))
    assert not list(separate.settings.runtime_dir.glob("*"))


@pytest.mark.parametrize("node", ["retrieval", "ann", "ranking"])
def test_every_node_refuses_what_another_bundle_made(
    long_lived: Chain, loaded: LoadedBundle, exported: Exported, node: str
) -> None:
    tensors = long_lived.before_ranking(stored(exported, [0, 1]))
    assert tensors["BUNDLE_ID"].tolist() == [[loaded.id.encode()]] * 2
    tensors["BUNDLE_ID"] = np.array([[loaded.id.encode()], [b"older-00"]], np.object_)
    message = f"^BUNDLE_ID is older-00; this node serves {loaded.id}"
    with pytest.raises(BundleMismatchError, match=message):
        getattr(long_lived, node).parse(tensors)


def test_metrics_count_where_keys_and_values_came_from(
    make_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_chain(pool_slots=1)
    request = stored(exported, [1, 2, 3])
    tensors = chain.before_ranking(request)
    handles = tensors["KV_HANDLE"]
    assert handles[:, 0].astype(bool).tolist() == [True, False, False]
    ranked: list[Ranked] = chain.ranking.run(chain.ranking.parse(tensors))
    assert counted(chain.ranking, "unipinrec_kv_source_total", source="prefill") == 1
    assert counted(chain.ranking, "unipinrec_kv_source_total", source="recomputed") == 2
    assert len(ranked) == 3
    assert counted(chain.retrieval, "unipinrec_kv_pool_full_total") == 2
    chain.retrieval.run(chain.retrieval.parse(tensors))
    assert counted(chain.retrieval, "unipinrec_kv_pool_full_total") == 4
    assert counted(chain.retrieval, "unipinrec_positions_total", kind="reused") == handles[0, 3]
    assert counted(chain.retrieval, "unipinrec_kv_slots_in_use") == 1
    tight = make_chain(pool_slots=1)
    for user, evicted in ((1, 0), (1, 0), (2, 1), (1, 2)):
        tight(stored(exported, [user]))
        assert counted(tight.retrieval, "unipinrec_kv_evictions_total") == evicted
    found = chain.ann.run(chain.ann.parse(tensors))
    assert sum(len(one.item_row_K) for one in found) == 3 * 2 * 20
    assert counted(chain.ann, "unipinrec_candidates_count") == 6
    assert counted(chain.ann, "unipinrec_candidates_sum") == 2 * 3 * 2 * 20


def counted(node: Node[Any, Any], name: str, **labels: str) -> float:
    value = node.metrics.get_sample_value(name, labels)
    assert value is not None
    return value
