"""The GPU's engine in the processes of a real server: static shapes, and memory that crosses by a handle.

The memory is the host's, and what would be captured runs as it is; all else is what serves on a GPU.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RetryPolicy

from ensemble.graph import MODEL_REPOSITORY, Tensors
from ensemble.kv.pool import COLUMNS, GENERATION
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import UserCanary
from ensemble.server.watchdog import Watchdog
from tests.conftest import LEASE_MS, NOW, Exported, serving
from tests.served.metrics import Scrape
from tests.served.nodes import answer_by_steps, kill
from tests.served.requests import offline, stored
from tests.support.answers import PROMISED, Answer, offline_answers
from tests.support.seals import handles_of
from tests.support.waiting import holds_within

USERS = 8
SLOTS = 3
NODES = ("retrieval", "ranking")
SECOND = ',\n  { count: 1, kind: KIND_CPU, host_policy: "second" }'


@pytest.fixture(scope="module")
def server(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("gpu-engine")
    repository = folder / "model_repository"
    shutil.copytree(MODEL_REPOSITORY, repository)
    for node in NODES:
        entry, config = repository / node / "1" / "model.py", repository / node / "config.pbtxt"
        replaced(entry, "from ensemble.executors.engines import", "from tests.served.stand_in_engine import")
        replaced(config, SECOND, "")
    with serving(exported, folder / "server.log", model_repository=repository, pool_slots=SLOTS) as server:
        yield server


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def expected(exported: Exported, users: range) -> list[Answer]:
    """What offline PyTorch recommends."""
    return offline_answers(exported, [offline(exported, user) for user in users])


def ask(server: EmbeddedServer, exported: Exported) -> tuple[list[Answer], set[str]]:
    """Every user's answer, and where ranking had their keys and values from."""
    with GrpcClient(server.grpc_url) as client:
        answers = [client.recommend(stored(exported, user)) for user in range(USERS)]
    return [Answer.served(answer) for answer in answers], {answer.kv_source for answer in answers}


def test_answers_equal_offline_pytorch_and_come_from_slots(
    server: EmbeddedServer, exported: Exported
) -> None:
    found, sources = ask(server, exported)
    assert not PROMISED.differences(found, expected(exported, range(USERS)))
    assert sources == {"prefill"}


def test_users_of_one_batch_are_answered_as_alone(server: EmbeddedServer, exported: Exported) -> None:
    users = range(USERS)
    with GrpcClient(server.grpc_url) as client:
        together = client.recommend_many([stored(exported, user) for user in users])
        again = client.recommend_many([stored(exported, user) for user in users])
    right = expected(exported, users)
    for answers in (together, again):
        assert not PROMISED.differences([Answer.served(answer) for answer in answers], right)
    # More users than slots: some find none.
    assert {"prefill", "recomputed"} <= {answer.kv_source for answer in together}


def test_a_slot_that_was_taken_over_is_not_used(server: EmbeddedServer) -> None:
    time.sleep(LEASE_MS / 1000)
    request = {
        "USER_ID": np.array([[b"user-17"]], np.object_),
        "REQUEST_TIME": np.array([[NOW]], np.int64),
        "NUM_RESULTS": np.array([[20]], np.int64),
    }

    def take_over(inputs: Tensors) -> None:
        (handle,) = handles_of(server.settings.bundle.name, inputs)
        path = next(server.serving.runtime_dir.glob(f"kv-*-{handle.epoch}.header"))
        np.memmap(path, np.int64, mode="r+").reshape(-1, COLUMNS)[handle.slot, GENERATION] += 1

    right = answer_by_steps(server, request)
    assert right["KV_SOURCE"][0, 0] in (b"prefill", b"prefix")
    wrong = answer_by_steps(server, request, take_over)
    assert wrong["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert not PROMISED.difference(Answer.of_row(wrong), Answer.of_row(right))


def test_launches_and_padding_are_counted(server: EmbeddedServer, exported: Exported) -> None:
    ask(server, exported)
    scrape = Scrape(server)
    for node in ("retrieval", "ranking"):
        assert scrape.value("unipinrec_launches_total", node=node, by="eager") > 0
        assert scrape.value("unipinrec_bucket_rows_total", node=node, kind="user") > 0
        assert scrape.value("unipinrec_cuda_graphs", node=node) == 0


@pytest.mark.parametrize("node", ["retrieval", "ranking"])
def test_a_killed_node_comes_back_and_its_memory_is_let_go(
    server: EmbeddedServer, exported: Exported, node: str
) -> None:
    right = expected(exported, range(USERS))
    before = pools_mapped_by_ranking(server)
    (instance,) = server.node_processes(node)
    kill([instance])
    with Watchdog(server, [UserCanary()], report=print, interval_s=0.5):
        until_answered(server, instance, node)
        found, sources = ask(server, exported)
    assert not PROMISED.differences(found, right)
    assert sources <= {"prefill", "prefix", "recomputed"}
    assert "recomputed" not in ask(server, exported)[1]
    # One mapping alone is left, that of the pool in use.
    assert holds_within(5, lambda: len(pools_mapped_by_ranking(server)) == 1)
    assert (pools_mapped_by_ranking(server) == before) == (node == "ranking")


def until_answered(server: EmbeddedServer, killed: int, node: str) -> None:
    with GrpcClient(server.grpc_url, timeout_s=5.0, retry=RetryPolicy(attempts=1)) as client:

        def answered() -> bool:
            try:
                client.recommend(RecommendRequest(user_id="user-0"))
            except RecommendError:
                return False
            return killed not in server.node_processes(node)

        assert holds_within(60, answered, 0.2)


def pools_mapped_by_ranking(server: EmbeddedServer) -> set[str]:
    """Memory of pools that the ranking process holds, deleted or not."""
    (ranking,) = server.node_processes("ranking")
    mapped = Path(f"/proc/{ranking}/maps").read_text().splitlines()
    return {line.split()[5] for line in mapped if "/device-" in line}
