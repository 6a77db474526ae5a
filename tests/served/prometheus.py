"""A real Prometheus on loopback that scrapes the server under test with the committed configuration."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import free_ports
from ensemble.settings import ROOT
from tests.served.exchange import exchange
from tests.support.tools import tool
from tests.support.waiting import holds_within

FOLDER = ROOT / "docker" / "prometheus"
START_S = 20.0


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, port: int) -> None:
        self._port = port

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query, each with `metric` and `value`."""
        return list(self._get("query", query=expression)["result"])

    def rules(self) -> dict[str, dict[str, Any]]:
        """Rules by name."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def answers(self) -> bool:
        """Whether it listens and is ready; before, it says in words that it is not."""
        try:
            self.rules()
        except (OSError, ValueError):
            return False
        return True

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        return json.loads(exchange("GET", url)[1])["data"]


@contextmanager
def scraping(server: EmbeddedServer, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with `server` as the one replica, looking every half second; its data go to `folder`."""
    binary = tool("prometheus")
    (port,) = free_ports(1)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(server, port)))
    (folder / "alerts.yml").write_text((FOLDER / "alerts.yml").read_text())
    (folder / "hasty.yml").write_text(yaml.safe_dump(_hasty_alerts()))
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        prometheus = Prometheus(port)
        started = holds_within(START_S, lambda: process.poll() is not None or prometheus.answers(), 0.1)
        assert process.poll() is None, "prometheus has ended; see its log"
        assert started, f"prometheus does not answer after {START_S} s"
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=20)


def _config(server: EmbeddedServer, port: int) -> dict[str, Any]:
    """The committed configuration with addresses of this machine in place of the compose file's."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [*config["rule_files"], "hasty.yml"]
    endpoints = server.endpoints
    targets = {
        "unipinrec": urlsplit(server.metrics_url).netloc,
        "launcher": urlsplit(endpoints.health_url).netloc,
    }
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [targets.get(job["job_name"], f"127.0.0.1:{port}")]}]
    return config


def _hasty_alerts() -> dict[str, Any]:
    """The alerts about dead nodes again, as `Hasty…`, that look back on 5 seconds and fire at once."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    hasty = [
        {
            "alert": rule["alert"].replace("Unipinrec", "Hasty"),
            "expr": re.sub(r"\[\d+m\]", "[5s]", rule["expr"]),
            "for": "0s",
        }
        for rule in rules
        if rule.get("alert") in {"UnipinrecNodeDead", "UnipinrecNotAnswering"}
    ]
    return {"groups": [{"name": "hasty", "rules": hasty}]}
