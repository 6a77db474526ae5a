"""The nodes chained in one process, and requests and answers for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.executors.engine import Engine, ScoringRow
from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.graph import MODEL_REPOSITORY, Tensors, call_in_process, ensembles_in
from ensemble.kv.pool import Handle, MappedPool, PoolDirectory
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import Node
from ensemble.nodes.ranking import RankingNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.scoring import ScoringNode
from ensemble.settings import ServingSettings
from tests.conftest import ACTIONS, ITEMS, NOW, SURFACES, USERS, Exported
from tests.support.answers import PROMISED, Answer, offline_answers
from tests.support.node_inputs import inputs_of
from tests.support.seals import handles_of, with_handles
from unipinrec.data.history import History
from unipinrec.models.unified.offline import OfflineRequest

UTILITY = (1.0, 0.5, 0.0)
MAX_HISTORY, WINDOW_BLOCK = 128, 32

RECOMMEND = ensembles_in(MODEL_REPOSITORY)["recommend"]


class Chain:
    """The nodes of `recommend` in one process, wired as its configuration says."""

    def __init__(
        self,
        loaded: LoadedBundle,
        settings: ServingSettings,
        history: HistoryNode,
        *engines: Engine,
    ) -> None:
        """Retrieval and ranking have an engine each, as they have a process each; by default the CPU's."""
        self.settings = settings
        self._bundle = loaded
        self.engines = engines or tuple(CpuEngine(loaded, settings.kv_precision) for _ in range(2))
        self.history = history
        self.restart_retrieval()
        self.ann = AnnNode(loaded, settings)
        self.ranking = RankingNode(loaded, settings, self.engines[1])
        self.scoring = ScoringNode(loaded, settings)

    def restart_retrieval(self) -> None:
        """A retrieval node with a pool of its own, in place of one that may have died."""
        self.retrieval = RetrievalNode(self._bundle, self.settings, self.engines[0], "retrieval_0")

    def close(self) -> None:
        for node in (self.retrieval, self.ann, self.ranking):
            node.close()

    def before(self, node: str, request: Tensors) -> Tensors:
        """All tensors that a node reads, made by the nodes before it."""
        nodes = {"history": self.history, "retrieval": self.retrieval, "ann": self.ann}
        return inputs_of(RECOMMEND, node, request, call_in_process(nodes))

    def before_ranking(self, request: Tensors) -> Tensors:
        """The inputs of `ranking`, and beside them what `scoring` takes from the request and other nodes."""
        made: Tensors = {}
        nodes = call_in_process({"history": self.history, "retrieval": self.retrieval, "ann": self.ann})

        def call(node: str, inputs: Tensors) -> Tensors:
            outputs = nodes(node, inputs)
            made.update(outputs)
            return outputs

        inputs = inputs_of(RECOMMEND, "ranking", request, call)
        given = {name: request[name] for name in ("UTILITY_WEIGHTS",) if name in request}
        return {
            **inputs,
            **given,
            "CANDIDATE_ORIGINS": made["CANDIDATE_ORIGINS"],
            "POLICY_TICKET": made["POLICY_TICKET"],
            "NUM_RESULTS": made["RESOLVED_NUM_RESULTS"],
        }

    def before_any(self, node: str, request: Tensors) -> Tensors:
        """All tensors that any node reads, `scoring` too."""
        if node in ("retrieval", "ann"):
            return self.before(node, request)
        tensors = self.before_ranking(request)
        return {**tensors, **self.ranking.pack(self.ranking.run(self.ranking.parse(tensors)))}

    def rank(self, tensors: Tensors) -> Tensors:
        """Rank and score what `before_ranking` returned."""
        ranked = self.ranking.pack(self.ranking.run(self.ranking.parse(tensors)))
        scored = self.scoring.parse({**tensors, **ranked})
        return {**ranked, **self.scoring.pack(self.scoring.run(scored))}

    def __call__(self, request: Tensors) -> Tensors:
        return self.rank(self.before_ranking(request))

    def handles(self, tensors: Tensors) -> list[Handle]:
        """What `KV_HANDLE` holds."""
        return handles_of(self._bundle.id, tensors)

    def with_handles(self, tensors: Tensors, handles: Sequence[Handle]) -> Tensors:
        """The tensors of a request with other handles, as if they were its own."""
        return with_handles(self._bundle.id, tensors, handles)

    def pool_of(self, handle: Handle) -> MappedPool:
        pool = PoolDirectory(self.settings.runtime_dir, self.engines[0]).find(handle)
        assert pool is not None
        return pool


def surface_of(user: int) -> int:
    return user % len(SURFACES)


def stored(exported: Exported, users: Sequence[int], num_results: int = 20) -> Tensors:
    """A request of these users that relies on their stored histories."""
    ids = [str(exported.dataset.user_ids_U[user]).encode() for user in users]
    return {
        "USER_ID": np.array([[user_id] for user_id in ids], np.object_),
        "REQUEST_TIME": np.full((len(users), 1), NOW),
        "SURFACE": np.array([[surface_of(user)] for user in users], np.int64),
        "NUM_RESULTS": np.full((len(users), 1), num_results, np.int64),
    }


def inline(exported: Exported, history: History, surface: int, **tensors: NDArray[Any]) -> Tensors:
    """A request of an unknown user who sends a history."""
    return {
        "USER_ID": np.array([[b"nobody"]], np.object_),
        "HISTORY_ITEM_IDS": exported.dataset.item_ids_V[history.item_row_N][None],
        "HISTORY_ACTIONS": history.actions_N[None],
        "HISTORY_TIMESTAMPS": history.timestamp_N[None],
        "HISTORY_SURFACES": history.surface_N[None].astype(np.int64),
        "REQUEST_TIME": np.array([[NOW]]),
        "SURFACE": np.array([[surface]], np.int64),
        "NUM_RESULTS": np.array([[20]], np.int64),
        **tensors,
    }


def offline(
    exported: Exported, histories: Sequence[History], surfaces: Sequence[int], num_results: int = 20
) -> list[Answer]:
    requests = [
        OfflineRequest(history=history, request_time=NOW, surface=surface)
        for history, surface in zip(histories, surfaces, strict=True)
    ]
    return offline_answers(exported, requests, num_results)


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
    rows = range(len(expected["ITEM_IDS"]))
    assert_answered(found, [Answer.of_row(expected, row) for row in rows])


def assert_answered(found: Tensors, expected: Sequence[Answer]) -> None:
    """As far as it is promised, whether keys and values were computed, continued or read."""
    rows = range(len(found["ITEM_IDS"]))
    difference = PROMISED.differences([Answer.of_row(found, row) for row in rows], expected)
    assert not difference, difference


def sources(answers: Tensors) -> list[str]:
    return [source.decode() for source in answers["KV_SOURCE"][:, 0]]


@contextmanager
def on_entry(ranking: RankingNode, act: Callable[[], None]) -> Iterator[None]:
    """Run `act` between ranking's check of the slots and its first forward over them."""
    score, pending = ranking._engine.score, [act]

    def score_after(rows: Sequence[ScoringRow]) -> list[NDArray[np.float32]]:
        if pending:
            pending.pop()()
        return score(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking._engine, "score", score_after)
        yield


def counted(node: Node[Any, Any], name: str, **labels: str) -> float:
    value = node.metrics.get_sample_value(name, labels)
    assert value is not None
    return value
