"""Two rankers in one process: what reaches the second one, and that it answers as PyTorch does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.executors.engines import second_ranker_of
from ensemble.executors.second_ranker import CpuSecondRanker, second_ranker_files
from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.graph import MODEL_REPOSITORY, Tensors, call_in_process, ensembles_in
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.contract import ADMISSION, ASKED_OUTPUTS
from ensemble.nodes.history import HistoryNode, latest_rows
from ensemble.nodes.l2 import L2Node
from ensemble.nodes.ranking import RankingNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.scoring import ScoringNode
from ensemble.nodes.sealed_history import SealedHistory, rows_from_bytes
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ServingSettings
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import ITEMS, NOW, Exported
from tests.support.answers import PROMISED, Answer
from tests.support.node_chain import inline
from tests.support.node_inputs import inputs_of
from tests.support.seals import contents_of
from tests.support.second_rankers import (
    CONFIGS,
    RankerExported,
    acted_on,
    as_events,
    mixed,
    offline_full,
    with_second_ranker,
)
from unipinrec.bundle import BundleError
from unipinrec.data.history import History
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.unified.offline import OfflineRequest

GRAPHS = ensembles_in(MODEL_REPOSITORY)
FULL, FIRST = GRAPHS["recommend_full"], GRAPHS["recommend"]
OPAQUE = {"ADMISSION", "SEALED_HISTORY", "SEALED_LEFT_OUT", "KV_HANDLE", "QUERY_SEAL", "CANDIDATE_SEAL"}
"""Other bytes for every request."""
LENGTHS = (0, 1, 40, 130, 400, 17_500)


class FullChain:
    """The nodes of `recommend_full` in one process."""

    def __init__(self, bundle: LoadedBundle, settings: ServingSettings) -> None:
        engines = [CpuEngine(bundle, settings.kv_precision) for _ in range(2)]
        self.nodes = {
            "history": HistoryNode(bundle, settings),
            "retrieval": RetrievalNode(bundle, settings, engines[0], "retrieval_0"),
            "ann": AnnNode(bundle, settings),
            "ranking": RankingNode(bundle, settings, engines[1]),
            "l2": L2Node(bundle, CpuSecondRanker(*second_ranker_files(bundle)), settings),
            "scoring": ScoringNode(bundle, settings),
        }
        self.call = call_in_process(self.nodes)

    def __call__(self, request: Tensors) -> Tensors:
        return FULL.run(request, self.call)

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def ranker(
    request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> RankerExported:
    return with_second_ranker(exported, tmp_path_factory.mktemp("ranker"), request.param)


@pytest.fixture(scope="module")
def chain(
    ranker: RankerExported, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullChain]:
    folder = tmp_path_factory.mktemp("chain")
    with LmdbHistoryStore(folder / "histories", writable=True) as store:
        for seed, length in enumerate(LENGTHS):
            store.append(f"stored-{seed}".encode(), as_events(exported, mixed(seed, length)))
    settings = ServingSettings(
        histories=folder / "histories", runtime_dir=folder / "runtime", lease_ms=60_000, max_events=20_000
    )
    made = FullChain(LoadedBundle.open(ranker.bundle), settings)
    yield made
    made.close()


def asked(exported: Exported, history: History, num_results: int = 20) -> Tensors:
    return inline(exported, history, 1) | {"NUM_RESULTS": np.array([[num_results]])}


def together(requests: Sequence[Tensors]) -> Tensors:
    """Requests of one user each as one, histories padded."""
    widest = max(request["HISTORY_ITEM_IDS"].shape[1] for request in requests)

    def padded(name: str, row: Tensors) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        array = row[name]
        missing = widest - array.shape[1] if name.startswith("HISTORY") else 0
        return np.pad(array, ((0, 0), (0, missing)), constant_values=-1 if name == "HISTORY_ITEM_IDS" else 0)

    numbers = [name for name in requests[0] if name != "USER_ID"]
    joined = {name: np.concatenate([padded(name, row) for row in requests]) for name in numbers}
    return joined | {"USER_ID": np.concatenate([row["USER_ID"] for row in requests])}


def request_of(history: History) -> OfflineRequest:
    return OfflineRequest(history=history, request_time=NOW, surface=1)


def assert_same(found: Tensors, expected: Sequence[Answer]) -> None:
    rows = [Answer.of_row(found, row) for row in range(len(expected))]
    difference = PROMISED.differences(rows, expected)
    assert not difference, difference


def test_answers_equal_offline_pytorch_with_impressions_and_without(
    chain: FullChain, exported: Exported, ranker: RankerExported
) -> None:
    histories = [mixed(seed, length) for seed, length in enumerate(LENGTHS)]
    histories += [acted_on(histories[3]), histories[3][histories[3].actions_N == 0]]
    expected = offline_full(exported, ranker, [request_of(history) for history in histories])
    for history, right in zip(histories, expected, strict=True):
        assert_same(chain(asked(exported, history)), [right])
    assert len({tuple(answer.items) for answer in expected}) == len(histories)


def test_the_second_ranker_orders_and_the_first_one_is_told_too(chain: FullChain, exported: Exported) -> None:
    request = asked(exported, mixed(9, 90))
    answer, first = chain(request), FIRST.run(request, chain.call)
    assert not np.allclose(answer["ACTION_PROBS"], answer["FIRST_ACTION_PROBS"], atol=0.01)
    assert answer["ITEM_IDS"].tolist() != first["ITEM_IDS"].tolist()
    of_first = dict(zip(first["ITEM_IDS"][0].tolist(), first["ACTION_PROBS"][0], strict=True))
    both = [place for place, item in enumerate(answer["ITEM_IDS"][0].tolist()) if item in of_first]
    assert len(both) > 3
    for place in both:
        told = of_first[answer["ITEM_IDS"][0, place]]
        assert np.allclose(answer["FIRST_ACTION_PROBS"][0, place], told, atol=1e-5)


def test_any_batch_gives_what_single_requests_give(chain: FullChain, exported: Exported) -> None:
    requests = [
        asked(exported, mixed(seed, length), num_results)
        for seed, (length, num_results) in enumerate([(0, 20), (300, 1), (5, 60), (2_000, 20), (64, 7)])
    ]
    alone = [Answer.of_row(chain(request)) for request in requests]
    assert_same(chain(together(requests)), alone)
    assert_same(chain(together(requests[::-1])), alone[::-1])


def test_a_stored_history_counts_as_the_same_one_sent(chain: FullChain, exported: Exported) -> None:
    for seed, length in enumerate(LENGTHS):
        sent = asked(exported, mixed(seed, length))
        stored = {name: array for name, array in sent.items() if not name.startswith("HISTORY")}
        stored["USER_ID"] = np.array([[f"stored-{seed}".encode()]], np.object_)
        assert_same(chain(stored), [Answer.of_row(chain(sent))])


def test_an_unknown_user_is_answered_as_an_empty_history(chain: FullChain, exported: Exported) -> None:
    sent = asked(exported, mixed(0, 0))
    unknown = {name: array for name, array in sent.items() if not name.startswith("HISTORY")}
    assert_same(chain(unknown), [Answer.of_row(chain(sent))])


def test_a_user_to_whom_nothing_is_left_gets_nothing_alone_and_beside_others(
    chain: FullChain, exported: Exported
) -> None:
    history = mixed(4, 30)
    request = asked(exported, history)
    everything = request | {"EXCLUDE_ITEM_IDS": exported.dataset.item_ids_V[None]}
    assert chain(everything)["ITEM_IDS"].tolist() == [[-1]]
    nobody = {"EXCLUDE_ITEM_IDS": np.full((1, ITEMS), -1)}
    found = chain(together([everything, request | nobody]))
    assert (found["ITEM_IDS"][0] == -1).all()
    assert_same({name: array[1:] for name, array in found.items()}, [Answer.of_row(chain(request))])


def test_many_candidates_are_ranked_as_a_few_are(ranker: RankerExported) -> None:
    offline, draw = OfflineSecondRanker(ranker.model), np.random.default_rng(3)
    requests = [request_of(mixed(seed, 40)) for seed in range(4)]
    candidates = [draw.permutation(ITEMS)[:count] for count in (300, 0, 100, 29)]
    for request, row_K, found in zip(
        requests, candidates, offline.action_probabilities(requests, candidates), strict=True
    ):
        assert found.shape == (len(row_K), 3)
        for begin in range(0, len(row_K), 50):
            few = slice(begin, begin + 50)
            (right,) = offline.action_probabilities([request], [row_K[few]])
            assert np.allclose(found[few], right, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads_answer_as_one(ranker: RankerExported, threads: int) -> None:
    offline, draw = OfflineSecondRanker(ranker.model), np.random.default_rng(3)
    requests = [request_of(mixed(seed, length)) for seed, length in enumerate((0, 40, 17_500))]
    candidates = [draw.permutation(ITEMS)[:count] for count in (3, 130, 100)]
    alone = offline.action_probabilities(requests, candidates)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    together = offline.action_probabilities(requests, candidates)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for found, right in zip(together, alone, strict=True):
        assert np.allclose(found, right, atol=1e-6)


def test_impressions_change_what_the_second_ranker_says_and_nothing_before_it(
    chain: FullChain, exported: Exported
) -> None:
    history = mixed(4, 200)
    with_them, without = asked(exported, history), asked(exported, acted_on(history))
    for node in ("retrieval", "ann", "ranking"):
        made = [inputs_of(FULL, node, request, chain.call) for request in (with_them, without)]
        for name, array in made[0].items():
            assert name in OPAQUE or np.array_equal(array, made[1][name]), name
    first, second = (chain(request)["ACTION_PROBS"] for request in (with_them, without))
    assert not np.allclose(first, second, atol=1e-3)


def test_only_candidates_make_what_reaches_the_second_ranker_larger(
    chain: FullChain, exported: Exported
) -> None:
    history = mixed(5, 3_000)
    few, many = (
        inputs_of(FULL, "l2", asked(exported, history, num_results), chain.call) for num_results in (1, 64)
    )
    assert (few["CANDIDATE_ITEMS"].shape, many["CANDIDATE_ITEMS"].shape) == ((1, 2), (1, 128))
    for name in few.keys() - {"CANDIDATE_ITEMS", ADMISSION}:
        assert len(few[name][0, 0]) == len(many[name][0, 0])


def test_long_histories_are_made_only_where_they_are_asked_for(chain: FullChain, exported: Exported) -> None:
    request = asked(exported, mixed(6, 50))
    for graph, made in ((FULL, {"SEALED_LIFELONG"}), (FIRST, set())):
        (step,) = (step for step in graph.steps if step.node == "history")
        names = np.array([name.encode() for name in step.outputs], np.object_)
        found = chain.call("history", request | {ASKED_OUTPUTS: names})
        assert found.keys() & {"SEALED_LIFELONG"} == made


def test_the_latest_events_and_impressions_up_to_the_request_are_kept() -> None:
    history = History(
        item_row_N=np.arange(8),
        actions_N=np.array([0, 1, 1, 0, 2, 0, 1, 0]),
        timestamp_N=np.array([1, 2, 3, 4, 5, 5, 5, 6]),
        surface_N=np.zeros(8, np.int64),
    )
    limits = CONFIGS["transact"].model_copy(update={"max_events": 2, "max_impressions": 1})
    assert latest_rows(history, 5, limits).item_row_N.tolist() == [4, 5, 6]
    none = limits.model_copy(update={"max_impressions": 0})
    assert latest_rows(history, 6, none).item_row_N.tolist() == [4, 6]
    assert latest_rows(history, 0, limits).item_row_N.tolist() == []


def test_a_bundle_whose_histories_hold_impressions_gives_them_to_both_rankers(
    ranker: RankerExported, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> None:
    loaded = LoadedBundle.open(ranker.bundle)
    both = replace(loaded, manifest=loaded.manifest.model_copy(update={"history_impressions": True}))
    settings = ServingSettings(histories=tmp_path_factory.mktemp("none") / "none")
    history = mixed(7, 60)
    for bundle, expected in ((both, history), (loaded, acted_on(history))):
        node = HistoryNode(bundle, settings)
        made = call_in_process({"history": node})("history", asked(exported, history))
        node.close()
        contents = {name: contents_of(bundle.id, made, name)[0] for name in made if name.startswith("SEALED")}
        for name, right in (("SEALED_HISTORY", expected), ("SEALED_LIFELONG", history)):
            found = SealedHistory.from_bytes(contents[name]).history
            assert found.item_row_N.tolist() == right.item_row_N.tolist()
        left_out = rows_from_bytes(contents["SEALED_LEFT_OUT"])
        assert left_out.tolist() == sorted(set(expected.item_row_N.tolist()))


def test_a_server_loads_the_ensembles_that_the_bundle_has_models_for(
    ranker: RankerExported, exported: Exported
) -> None:
    def of(bundle: Path, baseline: bool = False) -> EmbeddedServer:
        settings = ServingSettings(bundle=bundle)
        return EmbeddedServer(model_repository=MODEL_REPOSITORY, settings=settings, baseline=baseline)

    with_it, without, baseline = of(ranker.bundle), of(exported.bundle), of(exported.bundle, baseline=True)
    assert (with_it.ensembles, with_it.not_served) == (["recommend", "recommend_full"], [])
    assert (without.ensembles, without.not_served) == (["recommend"], ["recommend_full"])
    assert baseline.ensembles == ["recommend", "recommend_separate"]
    assert {"l2", "recommend_full"} == set(with_it.models) - set(without.models)
    assert {"retrieval_separate", "recommend_separate"} == set(baseline.models) - set(without.models)


def test_a_bundle_without_a_second_ranker_has_no_such_node(exported: Exported) -> None:
    loaded = LoadedBundle.open(exported.bundle)
    message = f"^bundle {loaded.id} holds no second ranker: transact, transact-v2$"
    with pytest.raises(BundleError, match=message):
        second_ranker_of({"model_instance_kind": "CPU"}, loaded, ServingSettings())
