"""Load tests against a real server: what they write, what they refuse, and what they must not leave out."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from commands.load_target import limit_of, write_traffic
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ServingSettings
from loadtest.generator import WindowPlan
from loadtest.generators import Generators
from loadtest.measures import Measured
from loadtest.outcomes import read_outcomes
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals
from loadtest.watch import ServerWatch
from loadtest.windows import Windows
from tests.conftest import Exported
from tests.served.relay import Relay

PAUSE_S = 2.0
LIMIT_MS = 2_000
"""Kept beside other tests, too."""


def command(*arguments: object) -> tuple[int, str]:
    previous = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, previous)
    return result.exit_code, result.output


def served_from(exported: Exported) -> tuple[object, ...]:
    return "--bundle", exported.bundle, "--histories", exported.histories


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_loadtest_writes_its_reports_and_exact_outcomes(
    server: EmbeddedServer,
    exported: Exported,
    tmp_path: Path,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No proxy is asked on the way to this machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    url = server.grpc_url if protocol == "grpc" else server.http_url
    workers = 2 if protocol == "grpc" else 1
    fixed = (*served_from(exported), "--seconds", 3, "--warm-up", 1, "--out", tmp_path)
    code, output = command(
        "loadtest", "--url", url, "--protocol", protocol, "--rate", 20, "--workers", workers, *fixed
    )
    assert code == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    outcomes = read_outcomes(tmp_path / "outcomes.csv")
    assert report["errors"] == 0
    assert report["verdict"] == "pass"
    assert report["protocol"] == protocol
    assert 0 < report["p50_ms"] <= report["p90_ms"] <= report["p99_ms"] <= report["max_ms"]
    assert report["rps_asked"] == pytest.approx(20, rel=0.5)
    assert report["answered"] == report["requests"] < len(outcomes)
    assert set(report["kinds"]) == {"new", "anonymous", "returning"}
    assert report["kv_source"]["prefix"] > 0
    for name in ("locust.html", "locust_stats.csv", "load.png"):
        assert (tmp_path / name).stat().st_size > 100


def test_a_spike_comes_and_a_broken_threshold_fails_the_run(
    server: EmbeddedServer, exported: Exported, tmp_path: Path
) -> None:
    code, output = command(
        "loadtest",
        *("--url", server.grpc_url, *served_from(exported), "--out", tmp_path),
        *("--rate", 10, "--shape", "spike", "--spike", 4, "--arrivals", "even"),
        *("--seconds", 5, "--warm-up", 0, "--max-p99-ms", 0.5),
    )
    assert code == 1
    assert "allowed: at most 0.5 ms" in output
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "fail"
    outcomes = read_outcomes(tmp_path / "outcomes.csv")
    due_s = [outcome.due_s - outcomes[0].due_s for outcome in outcomes]
    counts = [sum(low <= due < low + 1 for due in due_s) for low in range(5)]
    assert counts == pytest.approx([10, 10, 40, 10, 10], abs=2)


def test_what_cannot_be_asked_is_refused_in_one_line(tmp_path: Path) -> None:
    code, output = command("loadtest", "--mix", "new=0.5", "--out", tmp_path)
    assert code == 2
    assert "shares add up to 0.5; allowed: 1" in " ".join(output.replace("│", " ").split())
    code, output = command("loadtest", "--rate", 5, "--users", 5, "--out", tmp_path)
    assert code == 2


@pytest.fixture
def relay(server: EmbeddedServer) -> Iterator[Relay]:
    relay = Relay(server.endpoints.grpc_port)
    yield relay
    relay.close()


def test_an_open_loop_shows_a_pause_of_the_server_and_a_closed_loop_hides_it(
    relay: Relay, exported: Exported, tmp_path: Path
) -> None:
    opened = _while_paused(relay, exported, tmp_path, Arrivals.EVEN, 30)
    closed = _while_paused(relay, exported, tmp_path, Arrivals.CLOSED, 1)
    # Two of six seconds of arrivals met the pause; the first of them waited for all of it.
    assert opened.p99_ms > 0.9e3 * PAUSE_S
    assert opened.p90_ms > 0.5e3 * PAUSE_S
    assert closed.max_ms > 0.9e3 * PAUSE_S
    assert closed.p99_ms < 0.5e3 * PAUSE_S
    assert opened.errors == closed.errors == 0


def _while_paused(
    relay: Relay, exported: Exported, folder: Path, arrivals: Arrivals, level: float
) -> Measured:
    traffic = folder / "traffic.jsonl"
    settings = ServingSettings(bundle=exported.bundle, histories=exported.histories)
    write_traffic(traffic, settings, dataset=None)
    plan = LoadPlan(url=relay.url, traffic=str(traffic), limit=limit_of(exported.bundle))
    with Generators(1, folder) as generators:
        windows = Windows(generators, ServerWatch({}))
        windows.run(plan, WindowPlan(arrivals=Arrivals.CLOSED, level=1, seconds=0.5))
        with relay.stalled(after_s=2.0, for_s=PAUSE_S):
            return windows.run(plan, WindowPlan(arrivals=arrivals, level=level, seconds=6)).measured


def test_capacity_is_one_of_the_rates_tried_and_a_share_of_the_closed_loop(
    server: EmbeddedServer, exported: Exported, tmp_path: Path
) -> None:
    code, output = command(
        "capacity",
        *("--url", server.grpc_url, "--metrics-url", server.metrics_url, *served_from(exported)),
        *(
            "--seconds",
            1,
            "--warm-up",
            0.5,
            "--trials",
            4,
            "--p99-ms",
            LIMIT_MS,
            "--users",
            8,
            "--out",
            tmp_path,
        ),
    )
    assert code == 0, output
    report = json.loads((tmp_path / "capacity.json").read_text())
    (run,) = report["runs"]
    kept = [trial for trial in run["trials"] if trial["p99_ms"] is not None and trial["p99_ms"] <= LIMIT_MS]
    assert run["rate"] in [trial["rate"] for trial in kept]
    assert run["rate"] == pytest.approx(run["share"] * run["closed_rps"])
    assert "longest queue" in run["saturated"]
    assert (tmp_path / "capacity.png").stat().st_size > 1000


def test_a_soak_watches_memory_and_judges(exported: Exported, tmp_path: Path) -> None:
    code, output = command(
        "soak",
        *(*served_from(exported), "--rate", 20, "--minutes", 0.1, "--every", 0.4, "--out", tmp_path),
        *("--max-growth", 0.5, "--max-p99-over-p50", 100),
    )
    assert code == 0, output
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["verdict"] == "pass"
    assert report["soak"]["rate"] == pytest.approx(14)
    assert len(report["memory"]) >= 10
    assert all(point["rss_bytes"] > 50e6 and point["shared_bytes"] > 1e6 for point in report["memory"])
    # A node of several instances has a process, and a number, for each.
    assert {name.split()[0] for name in report["usage"]["cores"]} >= {"tritonserver", "retrieval", "ranking"}
