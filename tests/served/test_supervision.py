"""What `unipinrec serve` does by itself about nodes and servers of no use, and what it tells meanwhile."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from ensemble.server.endpoints import Endpoints
from tests.served.exchange import exchange
from tests.served.launched import NODE, NODE_CONFIG, Launcher, infer, write_deployment, write_model
from tests.support.waiting import holds_within

PATIENCE_S = 60


@pytest.fixture
def endpoints() -> Endpoints:
    return Endpoints.free()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_deployment(tmp_path)


@pytest.fixture
def launcher(folder: Path, endpoints: Endpoints) -> Iterator[Launcher]:
    launcher = Launcher(folder, endpoints)
    launcher.wait_for("Serving after")
    yield launcher
    if launcher.process.poll() is None:
        launcher.stop(signal.SIGTERM)


def told(endpoints: Endpoints, path: str = "/readyz") -> tuple[int, Any]:
    """What the launcher's health endpoint answers."""
    status, body = exchange("GET", endpoints.health_url + path)
    return status, json.loads(body)


def is_ready(endpoints: Endpoints) -> tuple[bool, bool]:
    """What the launcher says, and what Triton does on its own port."""
    ready = exchange("GET", f"{endpoints.http_url}/v2/health/ready")[0] == 200
    return told(endpoints)[0] == 200, ready


def counted(endpoints: Endpoints, name: str, **labels: str) -> float:
    """A value of the launcher's metrics."""
    text = exchange("GET", f"{endpoints.health_url}/metrics")[1].decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def ask_in_vain(endpoints: Endpoints, user: str) -> threading.Thread:
    """A request that may fail, under way."""

    def ask() -> None:
        try:
            infer(endpoints, user)
        except triton.InferenceServerException:
            return

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("reason", "harm"),
    [
        ("died", lambda launcher, _: launcher.node("first").kill()),
        ("was stopped", lambda launcher, _: launcher.node("first").send_signal(signal.SIGSTOP)),
        ("hung", lambda _, endpoints: ask_in_vain(endpoints, "deadlock")),
    ],
)
def test_a_useless_node_is_replaced_and_both_readiness_ports_say_so_meanwhile(
    launcher: Launcher, endpoints: Endpoints, reason: str, harm: Callable[[Launcher, Endpoints], Any]
) -> None:
    assert is_ready(endpoints) == (True, True)
    before, other = launcher.node("first").pid, launcher.node("second").pid
    harm(launcher, endpoints)
    seen: set[tuple[bool, bool]] = set()
    assert holds_within(
        PATIENCE_S, lambda: seen.add(is_ready(endpoints)) or "loaded again" in launcher.output, 0.02
    )
    assert (False, False) in seen
    assert holds_within(PATIENCE_S, lambda: is_ready(endpoints) == (True, True))
    assert infer(endpoints, "someone") == "someone"
    assert launcher.node("first").pid != before
    assert launcher.node("second").pid == other
    assert f"watchdog: first_0_0 {reason}; loaded again in " in launcher.output
    assert counted(endpoints, "unipinrec_outages_total", what="first", reason=reason) == 1
    assert counted(endpoints, "unipinrec_restarts_total", what="first", result="served") == 1
    assert counted(endpoints, "unipinrec_outage_seconds_count", what="first") == 1


def test_a_slow_node_that_computes_is_left_alone(launcher: Launcher, endpoints: Endpoints) -> None:
    before = launcher.node("first").pid
    began = time.monotonic()
    assert infer(endpoints, "slow") == "slow"
    assert time.monotonic() - began > 8
    assert launcher.node("first").pid == before
    assert "loaded again" not in launcher.output
    assert counted(endpoints, "unipinrec_outages_total", what="first") == 0


def test_a_node_that_cannot_start_is_tried_again_until_it_can(
    launcher: Launcher, folder: Path, endpoints: Endpoints
) -> None:
    write_model(folder, "second", NODE_CONFIG.format(name="second"), "import no_such_module\n")
    launcher.node("second").kill()
    assert holds_within(PATIENCE_S, lambda: "it cannot be loaded again: " in launcher.output)
    status, body = told(endpoints)
    (outage,) = [found for found in body["outages"] if found["what"] == "second_0_0"]
    assert (status, outage["reason"]) == (503, "died")
    assert told(endpoints, "/livez") == (200, {"alive": True})
    write_model(folder, "second", NODE_CONFIG.format(name="second"), NODE.format(load_s=0))
    assert holds_within(PATIENCE_S, lambda: is_ready(endpoints) == (True, True))
    assert infer(endpoints, "someone") == "someone"
    assert counted(endpoints, "unipinrec_restarts_total", what="second", result="failed") >= 1


def test_a_stopped_server_is_started_again(launcher: Launcher, endpoints: Endpoints) -> None:
    server = launcher.server()
    assert server is not None
    server.send_signal(signal.SIGSTOP)
    launcher.wait_for("Serving after", 2)
    assert infer(endpoints, "someone") == "someone"
    assert "watchdog: the server was stopped; it is killed\n" in launcher.output
    assert holds_within(PATIENCE_S, lambda: is_ready(endpoints) == (True, True))
    assert counted(endpoints, "unipinrec_outages_total", what="server", reason="was stopped") == 1


def test_all_else_is_refused_at_the_health_port(launcher: Launcher, endpoints: Endpoints) -> None:
    assert launcher.process.poll() is None
    assert exchange("GET", f"{endpoints.health_url}/")[0] == 404
    assert exchange("POST", f"{endpoints.health_url}/readyz", b"{}")[0] == 405
