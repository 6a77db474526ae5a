"""A server with the `gpu` profile in bfloat16, through Triton and real clients."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RecommendResponse, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import UserCanary
from ensemble.server.watchdog import Watchdog
from tests.conftest import LEASE_MS, USERS, Exported
from tests.gpu.conftest import LEAK_BYTES, SETTLING_S, DeviceMemoryWatch
from tests.served.metrics import metric
from tests.served.requests import offline, stored
from tests.support.answers import IN_BFLOAT16, Answer
from unipinrec.bundle import read_manifest
from unipinrec.models.unified.offline import OfflineRecommender

REQUESTS, THREADS, NUM_RESULTS = 2_000, 32, 20
RECOVERY_S = 240.0


@pytest.fixture(scope="module")
def right(exported: Exported) -> list[Answer]:
    """What offline PyTorch recommends to each user, in float32."""
    defaults = read_manifest(exported.bundle).defaults
    requests = [offline(exported, user) for user in range(USERS)]
    answers = OfflineRecommender(exported.model).recommend(requests, NUM_RESULTS, defaults)
    return [Answer.offline(answer, exported.dataset.item_ids_V) for answer in answers]


def differences(
    users: Sequence[int], responses: Sequence[RecommendResponse], right: list[Answer]
) -> list[str]:
    """What is wrong with each answer that no rounding explains."""
    return [
        f"user {user}: {difference}"
        for user, response in zip(users, responses, strict=True)
        if (difference := IN_BFLOAT16.difference(Answer.served(response), right[user]))
    ]


def test_another_users_answer_is_beyond_the_tolerance(right: list[Answer]) -> None:
    """Else the tests below would not notice a slot that is somebody else's."""
    others = [(own, other) for user, own in enumerate(right) for other in right[user + 1 :]]
    unnoticed = [pair for pair in others if not IN_BFLOAT16.difference(*pair)]
    assert len(unnoticed) < len(others) / 1000


def test_graphs_are_captured_before_the_server_is_ready_and_serve_every_batch(
    gpu_server: EmbeddedServer, exported: Exported
) -> None:
    for node in ("retrieval", "ranking"):
        assert metric(gpu_server, "unipinrec_cuda_graphs", node=node) > 0
    with GrpcClient(gpu_server.grpc_url) as client:
        for user in range(100):
            client.recommend(stored(exported, user))
    for node in ("retrieval", "ranking"):
        assert metric(gpu_server, "unipinrec_launches_total", node=node, by="graph") >= 100
        assert metric(gpu_server, "unipinrec_launches_total", node=node, by="eager") == 0


def test_2000_requests_of_32_threads_are_answered_as_offline_pytorch_does(
    gpu_server: EmbeddedServer, exported: Exported, right: list[Answer]
) -> None:
    users = np.random.default_rng(4).integers(USERS, size=REQUESTS).tolist()
    with GrpcClient(gpu_server.grpc_url, timeout_s=60.0) as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda user: client.recommend(stored(exported, user, NUM_RESULTS)), users))
    assert differences(users, answers, right) == []
    sources = Counter(answer.kv_source for answer in answers)
    assert sources["recomputed"] < REQUESTS / 100
    assert sources["prefix"] > 0


@pytest.fixture
def watched(gpu_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    with Watchdog(gpu_server, [UserCanary()], report=print, interval_s=0.5):
        yield gpu_server


class Load:
    """Four callers who ask again and again, and note what they were told."""

    def __init__(self, server: EmbeddedServer, exported: Exported) -> None:
        self.users: list[int] = []
        self.answers: list[RecommendResponse] = []
        self.failures = 0
        self._server = server
        self._exported = exported
        self._stopped = threading.Event()
        self._note = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(4)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        once = RetryPolicy(attempts=1)
        with GrpcClient(self._server.grpc_url, timeout_s=10.0, retry=once) as client:
            while not self._stopped.is_set():
                user = int(draw.integers(USERS))
                try:
                    answer = client.recommend(stored(self._exported, user, NUM_RESULTS))
                except RecommendError:
                    self.failures += 1
                    time.sleep(0.05)
                    continue
                with self._note:
                    self.users.append(user)
                    self.answers.append(answer)


def ask_until_answered(server: EmbeddedServer, node: str, killed: int) -> None:
    """Until another process serves the node, and ten requests in a row are answered from slots."""
    deadline = time.monotonic() + RECOVERY_S
    answered = 0
    with GrpcClient(server.grpc_url, timeout_s=10.0, retry=RetryPolicy(attempts=1)) as client:
        while answered < 10 or len(server.node_processes(node)) != 1 or killed in server.node_processes(node):
            server.check_running()
            assert time.monotonic() < deadline
            try:
                source = client.recommend(RecommendRequest(user_id=f"user-{answered}")).kv_source
                answered = answered + 1 if source != "recomputed" else 0
            except RecommendError:
                answered = 0
                time.sleep(0.1)


@pytest.mark.parametrize("node", ["retrieval", "ranking"])
def test_a_killed_node_recovers_under_load_without_a_stale_answer_or_a_leak(
    watched: EmbeddedServer,
    exported: Exported,
    right: list[Answer],
    device_memory: DeviceMemoryWatch,
    node: str,
) -> None:
    (pid,) = watched.node_processes(node)
    with Load(watched, exported) as load:
        time.sleep(2.0)
        os.kill(pid, signal.SIGKILL)
        ask_until_answered(watched, node, pid)
        time.sleep(LEASE_MS / 1000)
    assert load.failures > 0
    assert len(load.answers) > 100
    assert differences(load.users, load.answers, right) == []
    assert device_memory.missing < LEAK_BYTES, f"still gone after {SETTLING_S} s"
    pools = list(watched.serving.runtime_dir.glob("kv-*.json"))
    assert len(pools) == 1
