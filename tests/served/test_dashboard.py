"""A real Prometheus finds data for every panel of the dashboard, and its rules notice a dead node."""

import json
import math
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from unipinrec_client import GrpcClient, RecommendError, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.health import SERVER, Health, told_at
from ensemble.settings import ROOT
from tests.conftest import Exported, serving
from tests.served.nodes import kill
from tests.served.prometheus import FOLDER, Prometheus, scraping
from tests.served.requests import stored
from tests.support.policies import with_policy
from tests.support.tools import tool
from tests.support.waiting import holds_within

DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "unipinrec.json").read_text())
DEAD_NODE = "ann"
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*"}
PATIENCE_S = 25.0


def queries() -> list[tuple[str, str]]:
    """Title and expression of every query of every panel, as Grafana would send it."""
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            found.append((f"{panel['title']} {target['refId']}", expression))
    return found


@pytest.fixture(scope="module")
def server(
    exported: Exported, profile: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server with a policy, so that every panel has something to show."""
    folder = tmp_path_factory.mktemp("dashboard")
    bundle = with_policy(exported, folder).bundle
    alphas = folder / "alphas.json"
    health = Health()
    health.begin(SERVER, "ended")
    health.end(SERVER)
    with (
        serving(
            replace(exported, bundle=bundle), folder / "server.log", profile=profile, policy_alphas=alphas
        ) as server,
        told_at(health, server.endpoints),
    ):
        yield server


@pytest.fixture(scope="module")
def traffic(server: EmbeddedServer, exported: Exported) -> Iterator[threading.Event]:
    """Ten requests a second of twenty users, while the event is set."""
    tool("prometheus")
    running, stopped = threading.Event(), threading.Event()

    def call() -> None:
        with GrpcClient(server.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
            user = 0
            while not stopped.wait(0.1):
                if not running.is_set():
                    continue
                user = (user + 1) % 20
                try:
                    client.recommend(stored(exported, user))
                except RecommendError:
                    continue

    thread = threading.Thread(target=call)
    thread.start()
    yield running
    stopped.set()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(
    server: EmbeddedServer, traffic: threading.Event, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    traffic.set()
    with scraping(server, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(point["value"][1])) for point in series)


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_committed_files(command: list[str]) -> None:
    promtool = tool("promtool", "prometheus")
    done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for alert in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        anchor = re.sub(r"(?<!^)(?=[A-Z])", "-", alert["alert"].removeprefix("Unipinrec")).lower()
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{anchor}"
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["for"]


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    missing = dict(queries())
    assert len(missing) > 30

    def ask() -> bool:
        for title in [title for title, query in missing.items() if has_data(prometheus.query(query))]:
            del missing[title]
        return not missing

    holds_within(PATIENCE_S, ask, 0.25)
    assert missing == {}


def test_every_rule_evaluates_and_a_healthy_server_raises_no_alert(prometheus: Prometheus) -> None:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    names = {rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]}
    records = [name for name in names if ":" in name]

    def evaluated() -> bool:
        healthy = all(rule["health"] == "ok" for rule in prometheus.rules().values())
        return healthy and all(has_data(prometheus.query(name)) for name in records)

    holds_within(PATIENCE_S, evaluated, 0.25)
    rules = prometheus.rules()
    assert names <= rules.keys()
    for name in names:
        assert (rules[name]["health"], rules[name].get("lastError", "")) == ("ok", "")
        assert not [alert for alert in rules[name].get("alerts", []) if alert["state"] == "firing"]
    assert [name for name in records if not has_data(prometheus.query(name))] == []


def test_a_dead_node_that_nobody_reloads_is_named(
    prometheus: Prometheus, traffic: threading.Event, revived: EmbeddedServer
) -> None:
    traffic.clear()
    kill(revived.node_processes(DEAD_NODE))
    traffic.set()
    firing: dict[str, list[dict[str, str]]] = {}

    def look() -> bool:
        for name in ("HastyNodeDead", "HastyNotAnswering"):
            firing[name] = [alert["labels"] for alert in prometheus.rules()[name]["alerts"]]
        return all(firing.values())

    holds_within(PATIENCE_S, look, 0.25)
    assert [labels["model"] for labels in firing["HastyNodeDead"]] == [DEAD_NODE]
    assert [labels["job"] for labels in firing["HastyNotAnswering"]] == ["unipinrec"]
