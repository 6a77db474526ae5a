"""What the images run, without a container: entry point and health check against a real server."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from unipinrec_client import GrpcClient, RecommendRequest, RecommendResponse, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.installation import Installation
from ensemble.settings import ROOT
from tests.conftest import Exported
from tests.served.nodes import kill
from tests.served.requests import stored
from tests.support.waiting import holds_within

DOCKER = ROOT / "docker"
CHECKS = 10
IN_FLIGHT = 14
"""Requests of 16 users: as many as the edge lets in."""


def environment(endpoints: Endpoints, **variables: str) -> dict[str, str]:
    """What a container would give the scripts, with the interpreter of this environment."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
        "UNIPINREC_ADDRESS": endpoints.address,
        "UNIPINREC_HTTP_PORT": str(endpoints.http_port),
        "UNIPINREC_GRPC_PORT": str(endpoints.grpc_port),
        "UNIPINREC_METRICS_PORT": str(endpoints.metrics_port),
        "UNIPINREC_HEALTH_PORT": str(endpoints.health_port),
        "PYTHONUNBUFFERED": "1",
        **variables,
    }


def health(endpoints: Endpoints, timeout_s: float = 5.0) -> subprocess.CompletedProcess[str]:
    variables = environment(endpoints, UNIPINREC_HEALTH_TIMEOUT_S=str(timeout_s))
    return subprocess.run(
        [DOCKER / "healthcheck.sh"], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


class Container:
    """The entry point as a process, confined like a container where this machine allows it."""

    def __init__(self, folder: Path, bundle: Path, histories: Path) -> None:
        self.endpoints = Endpoints.free()
        self.grpc_url = f"127.0.0.1:{self.endpoints.grpc_port}"
        self._output = folder / "output.txt"
        command: list[str | Path] = [DOCKER / "entrypoint.sh"]
        variables = environment(
            self.endpoints,
            UNIPINREC_BUNDLE=str(bundle),
            UNIPINREC_HISTORIES=str(histories),
            UNIPINREC_EXIT_TIMEOUT_S="20",
        )
        if can_confine():
            (folder / "tmpfs").mkdir()
            confined = ROOT / "tests" / "served" / "confined.sh"
            kept = (bundle, f"{histories}:rw", ROOT)
            command = ["unshare", "--mount", confined, folder / "tmpfs", *kept, "--", *command]
        else:
            variables["UNIPINREC_LOG"] = str(folder / "server.log")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=variables, cwd="/", stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_until_serving(self) -> None:
        holds_within(120, lambda: "Serving after" in self.output or self.process.poll() is not None)
        assert "Serving after" in self.output, self.output


def can_confine() -> bool:
    unshare = shutil.which("unshare")
    if not (unshare and shutil.which("setpriv")):
        return False
    return subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def container(exported: Exported, tmp_path: Path) -> Iterator[Container]:
    # The images hold the embedded server's backend folder already.
    Installation.find(None)
    container = Container(tmp_path, exported.bundle, exported.histories)
    yield container
    if container.process.poll() is None:
        container.process.terminate()
        container.process.wait(timeout=60)


def test_sigterm_lets_requests_in_flight_finish(container: Container, exported: Exported) -> None:
    container.wait_until_serving()
    checked = health(container.endpoints)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("healthy · bundle ")
    assert len(checked.stdout.splitlines()) == 1

    with GrpcClient(container.grpc_url, timeout_s=60.0, retry=RetryPolicy(attempts=1)) as client:

        def ask(first: int) -> tuple[RecommendResponse, ...]:
            return client.recommend_many([stored(exported, (first + user) % 320) for user in range(16)])

        ask(0)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            answers = [pool.submit(ask, 16 * number) for number in range(IN_FLIGHT)]
            wait(answers, return_when=FIRST_COMPLETED)
            container.process.send_signal(signal.SIGTERM)
            assert not all(answer.done() for answer in answers)
            assert [len(answer.result()) for answer in answers] == [16] * IN_FLIGHT
    assert container.process.wait(timeout=30) == 0
    assert container.output.endswith("Stopped.\n")


def test_health_fails_when_nothing_listens() -> None:
    checked = health(Endpoints.free())
    assert (checked.returncode, checked.stdout) == (1, "")
    assert len(checked.stderr.splitlines()) == 1


def test_health_fails_when_one_instance_of_a_node_has_died(revived: EmbeddedServer) -> None:
    with GrpcClient(revived.grpc_url) as client:
        client.recommend(RecommendRequest(user_id="someone"))
        assert health(revived.endpoints).returncode == 0
        kill(revived.node_processes("ranking")[:1])
        # The other instance may take all requests of one check; Docker repeats it every 15 seconds.
        for _ in range(CHECKS):
            checked = health(revived.endpoints)
            if checked.returncode:
                break
        assert client.ready()
    assert checked.returncode == 1
    assert "is not healthy" in checked.stderr
    assert len(checked.stderr.splitlines()) == 1
