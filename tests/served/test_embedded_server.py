"""A running server: what its nodes are given, where it listens, who administers it, who revives its nodes."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.fatal_signal import handles_fatal_signal
from ensemble.server.launcher import UserCanary
from ensemble.server.model_loader import ModelLoader
from ensemble.server.replacement import GONE_S
from ensemble.server.server_error import ServerError
from ensemble.server.watchdog import Watchdog
from ensemble.settings import SHARED_MEMORY, ServingSettings
from tests.served.exchange import exchange
from tests.served.launched import infer, write_deployment
from tests.support.waiting import holds_within


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with running(write_deployment(tmp_path_factory.mktemp("shared")), pool_slots=5) as server:
        yield server


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of a test's own, which it may end."""
    with running(write_deployment(tmp_path)) as server:
        yield server


@contextmanager
def running(folder: Path, pool_slots: int = 64) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(
        model_repository=folder / "models",
        settings=ServingSettings(bundle=folder / "bundle", pool_slots=pool_slots),
        endpoints=Endpoints.free(),
        log_path=folder / "server.log",
    ) as server:
        server.start()
        assert server.wait_until_serving(UserCanary(), timeout_s=60)
        yield server


def test_nodes_run_this_interpreter_with_these_settings(server: EmbeddedServer) -> None:
    assert infer(server, "prefix") == sys.prefix
    assert infer(server, "numpy") == np.__version__
    assert infer(server, "slots") == "5"
    runtime_dir = Path(infer(server, "runtime"))
    assert runtime_dir.parent == SHARED_MEMORY
    assert runtime_dir.stat().st_mode & 0o777 == 0o700


def test_listens_on_loopback_only(server: EmbeddedServer) -> None:
    connections = psutil.Process(server.pid).net_connections("inet")
    listening = {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    # gRPC listens on the IPv6 form of the same IPv4 loopback address.
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} == {"127.0.0.1"}
    assert {port for _, port in listening} == set(server.endpoints.triton_ports.values())


def test_metrics_are_served(server: EmbeddedServer) -> None:
    assert 'nv_inference_request_success{model="recommend"' in exchange("GET", server.metrics_url)[1].decode()


def test_administration_needs_the_secret(server: EmbeddedServer) -> None:
    with server.client() as client:
        with pytest.raises(triton.InferenceServerException, match="restricted"):
            client.unload_model("first")
        client.get_model_repository_index(headers=server.admin_headers)
    assert exchange("POST", f"{server.http_url}/v2/repository/models/first/unload")[0] == 403


def test_start_that_is_never_answered_ends_with_the_reason(server: EmbeddedServer) -> None:
    with pytest.raises(ServerError, match=r"server start is over 1 s: .*unknown model: 'absent'"):
        server.wait_until_serving(UserCanary(model="absent"), timeout_s=1)


def test_a_model_that_failed_to_load_and_was_given_up_leaves_the_server_ready(server: EmbeddedServer) -> None:
    def ready() -> bool:
        return exchange("GET", f"{server.http_url}/v2/health/ready")[0] == 200

    folder = server.repository.folder / "third"
    shutil.copytree(server.repository.folder / "second", folder)
    (folder / "1" / "model.py").write_text("import no_such_module\n")
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace("second", "third"))
    with ModelLoader(server) as loader:
        with pytest.raises(ServerError, match="third does not load"):
            loader.load("third")
        assert not ready()
        loader.unload("third", 5.0)
    assert holds_within(20, ready)


def test_watchdog_revives_a_dead_node_alone(server: EmbeddedServer) -> None:
    lines: list[str] = []
    before = nodes_of(server)
    with Watchdog(server, [UserCanary()], report=lines.append, interval_s=1):
        os.kill(before["first"], signal.SIGKILL)
        assert holds_within(10, lambda: lines)
        assert infer(server, "someone") == "someone"
    after = nodes_of(server)
    assert after["second"] == before["second"]
    assert after["first"] != before["first"]
    assert len(lines) == 1
    assert lines[0].startswith("watchdog: first_0_0 died; loaded again in ")


def test_watchdog_loads_a_model_whose_load_failed(server: EmbeddedServer) -> None:
    lines: list[str] = []
    with server.client() as client:
        client.unload_model("second", headers=server.admin_headers)
    with Watchdog(server, [UserCanary()], report=lines.append, interval_s=0.5):
        for told in ("canaries are answered again", "second is not loaded; loaded again in "):
            wanted = f"watchdog: {told}"
            assert holds_within(20, lambda wanted=wanted: any(wanted in line for line in lines)), lines
    assert infer(server, "someone") == "someone"


@pytest.mark.skipif(not Path("/usr/bin/addr2line").exists(), reason="no addr2line, without which Triton ends")
def test_watchdog_ends_a_server_that_takes_too_long_to_die(mortal: EmbeddedServer) -> None:
    lines: list[str] = []
    assert not handles_fatal_signal(mortal.pid)
    with Watchdog(mortal, [UserCanary()], report=lines.append):
        os.kill(mortal.pid, signal.SIGABRT)
        stop_a_stack_printer(mortal)
        assert handles_fatal_signal(mortal.pid)
        assert holds_within(10, lambda: lines)
    assert lines == ["watchdog: the server takes too long to die of a signal; it is killed"]
    with pytest.raises(ServerError, match="stopped by signal 9"):
        assert holds_within(10, mortal.check_running)


def stop_a_stack_printer(server: EmbeddedServer) -> None:
    """Triton has a program of this name print the stack of what ends it, line by line, and waits for it."""
    while True:
        server.check_running()
        for child in server.children():
            with suppress(psutil.NoSuchProcess):
                if child.name() == "addr2line" and child.status() != psutil.STATUS_ZOMBIE:
                    child.suspend()
                    return


@pytest.mark.slow
def test_watchdog_ends_a_server_that_waits_for_a_node_in_vain(mortal: EmbeddedServer) -> None:
    lines: list[str] = []
    (old,) = mortal.node_processes("first")
    with Watchdog(mortal, [UserCanary()], report=lines.append):
        os.kill(old, signal.SIGKILL)
        assert holds_within(10, lambda: set(mortal.node_processes("first")) - {old}, every_s=0)
        for new in mortal.node_processes("first"):
            os.kill(new, signal.SIGSTOP)
        assert holds_within(GONE_S + 10, lambda: any("is killed" in line for line in lines))
    told = "watchdog: the server waits in vain for a process of first; it is killed"
    assert told in lines
    with pytest.raises(ServerError, match="stopped by signal 9"):
        assert holds_within(10, mortal.check_running)


def nodes_of(server: EmbeddedServer) -> dict[str, int]:
    """The process id of each node."""
    return {node: pid for node in ("first", "second") for pid in server.node_processes(node)}
