"""The explorer's page in a real browser shows what the API answers to the same request."""

import http.client
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from unipinrec_client import GrpcClient, RecommendRequest, RecommendResponse

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import free_ports
from ensemble.settings import ROOT
from tests.conftest import ACTIONS, Exported, serving
from tests.served.chromium import chromium, errors_of, paste, until
from tests.served.requests import events_of
from tests.support.policies import with_policy
from tests.support.swept import swept_card
from tests.support.waiting import holds_within
from unipinrec.models.policy.card import CARD

RESULTS = 10
WITHIN_S = 60.0
"""A bound for whatever else the machine does. A page is there after 2 to 3 s where nothing else runs."""
ROUNDED = 6e-4
"""Half of the last digit that the page shows, of scores and of probabilities, and rounding of answers."""

CARDS = """return [...document.querySelectorAll('.ex-card')].map(card => [
    Number(card.dataset.item), parseFloat(card.querySelector('.ex-score').textContent),
    ...[...card.querySelectorAll('.told')].map(told => parseFloat(told.textContent) / 100)])"""

BUDGET_MS = 1_000
"""A busy machine leaves the policy little."""

Row = list[float]


@dataclass(frozen=True)
class Explored:
    """A page that is served."""

    url: str
    port: int
    process: psutil.Process


@contextmanager
def exploring(servers: dict[str, str], dataset: Path, bundles: Path, log: Path) -> Iterator[Explored]:
    """The page over servers, whose metrics are given by their gRPC addresses."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "commands.explore", "--port", str(port)]
    for url, metrics_url in servers.items():
        command += ["--url", url, "--metrics-url", metrics_url]
    command += ["--dataset", str(dataset), "--bundles", str(bundles)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        listening = holds_within(WITHIN_S, lambda: process.poll() is not None or answers(port), 0.1)
        assert listening, log.read_text()
        assert process.poll() is None, log.read_text()
        yield Explored(f"http://127.0.0.1:{port}", port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def away() -> str:
    """An address where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
def explored(
    exported: Exported, server: EmbeddedServer, away: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Explored]:
    """The page over the shared server, and over one that is away."""
    servers = {server.grpc_url: server.metrics_url, away: f"http://{away}/metrics"}
    log = tmp_path_factory.mktemp("explorer") / "explorer.log"
    with exploring(servers, dataset_of(exported), exported.bundle.parent, log) as explored:
        yield explored


def dataset_of(exported: Exported) -> Path:
    return exported.bundle.parents[1] / "data"


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with chromium() as browser:
        yield browser


def answers(port: int) -> bool:
    try:
        return handshake(port, f"127.0.0.1:{port}") == http.client.SWITCHING_PROTOCOLS
    except OSError:
        return False


def handshake(port: int, host: str) -> int:
    """The status with which the page's own connection is taken, where the visitor's browser says `host`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"Host": host, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    connection.request(
        "GET", "/_stcore/stream", headers=headers | {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    )
    status = connection.getresponse().status
    connection.close()
    return status


def shown(browser: WebDriver) -> list[Row]:
    return list(browser.execute_script(CARDS))


def expected(response: RecommendResponse) -> list[Row]:
    return [[item.item_id, item.score, *item.action_probabilities] for item in response.recommendations]


def same(found: list[Row], right: list[Row]) -> bool:
    """Whether items and their order are the same, and numbers up to the digits that are shown."""
    return len(found) == len(right) and all(
        [row[0], *row[1:]] == [other[0], *(pytest.approx(value, abs=ROUNDED) for value in other[1:])]
        for row, other in zip(found, right, strict=True)
    )


def request_of(
    exported: Exported, user: int, utility: tuple[float, ...] | None = None, excluded: tuple[int, ...] = ()
) -> RecommendRequest:
    """What the page asks for: the user's whole history, at the time of its last event."""
    events = events_of(exported, user)
    return RecommendRequest(
        user_id=str(exported.dataset.user_ids_U[user]),
        history=events,
        request_time=events[-1].timestamp,
        num_results=RESULTS,
        utility_weights=utility,
        exclude_item_ids=excluded,
    )


def until_shown(browser: WebDriver, right: list[Row]) -> None:
    until(WITHIN_S, lambda: same(shown(browser), right), "the page does not show what the API answers")


def choose(browser: WebDriver, user_id: str) -> None:
    field = browser.find_element(By.CSS_SELECTOR, "[data-testid=stSelectbox] input")
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    paste(browser, user_id)
    field.send_keys(Keys.ENTER)


def test_what_is_shown_changes_as_the_answer_of_the_api_does(
    explored: Explored, browser: WebDriver, exported: Exported, server: EmbeddedServer
) -> None:
    user = 17
    with GrpcClient(server.grpc_url) as client:
        began = time.monotonic()
        browser.get(explored.url)
        until_shown(browser, expected(client.recommend(request_of(exported, 0))))
        first_page_s = time.monotonic() - began
        # With `pytest -s`, for docs/explorer.md.
        print(f"first page after {first_page_s:.2f} s")
        assert first_page_s < WITHIN_S
        choose(browser, str(exported.dataset.user_ids_U[user]))
        plain = client.recommend(request_of(exported, user))
        until_shown(browser, expected(plain))

        # The default weights are 1, 0.5 and 0; the last action begins to count.
        last = len(ACTIONS) - 1
        browser.find_element(By.CSS_SELECTOR, f".st-key-utility-{last} input").send_keys(Keys.END)
        weights = (*plain.utility_weights[:-1], 2.0)
        moved = client.recommend(request_of(exported, user, weights))
        until_shown(browser, expected(moved))
        assert [item.item_id for item in moved.recommendations] != [
            item.item_id for item in plain.recommendations
        ]

        first = moved.recommendations[0].item_id
        browser.find_element(By.CSS_SELECTOR, f".st-key-out-0-{first} button").click()
        without = client.recommend(request_of(exported, user, weights, (first,)))
        until_shown(browser, expected(without))
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in loaded if not name.startswith((explored.url, "data:", "blob:"))] == []
    text = browser.find_element(By.TAG_NAME, "body").text
    assert re.search("KV (prefill|prefix|recomputed): ", text)
    assert "weights of the sliders" in text
    assert all(f"{stage} " in text for stage in ("history", "retrieval", "ann", "ranking", "scoring"))
    assert errors_of(browser) == []


def test_what_fails_is_told_in_a_sentence(explored: Explored, browser: WebDriver, away: str) -> None:
    browser.get(explored.url)
    alerts = "[data-testid=stAlert]"

    def told() -> list[str]:
        return [alert.text for alert in browser.find_elements(By.CSS_SELECTOR, alerts)]

    sentence = f"No server answers at {away}: start one by make serve, or give another --url."
    until(WITHIN_S, lambda: told() == [sentence] and len(shown(browser)) == RESULTS, "nothing is told")
    body = browser.find_element(By.TAG_NAME, "body")
    choose(browser, "nobody")
    until(WITHIN_S, lambda: "The page has no history of this user" in body.text, "nothing is told")
    until(WITHIN_S, lambda: len(shown(browser)) == RESULTS, "a new user is recommended nothing")
    choose(browser, "x" * 257)
    until(WITHIN_S, lambda: told()[-1] == sentence and "USER_ID has 257 bytes" in told()[0], "no refusal")
    assert "allowed: 0 to 256" in told()[0]
    assert "Traceback" not in body.text
    assert errors_of(browser) == []


def test_only_this_machine_is_listened_to_and_by_its_own_names(explored: Explored) -> None:
    listening = [c for c in explored.process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert handshake(explored.port, f"evil.example:{explored.port}") == http.client.FORBIDDEN


@pytest.mark.slow
def test_two_bundles_are_compared_and_a_policys_frontier_is_drawn(
    browser: WebDriver, exported: Exported, server: EmbeddedServer, tmp_path: Path
) -> None:
    policy = with_policy(exported, tmp_path / "policy")
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / exported.bundle.name).symlink_to(exported.bundle)
    told = shutil.copytree(policy.bundle, bundles / policy.bundle.name)
    (told / "policy" / CARD).write_text(swept_card().model_dump_json())
    with (
        serving(
            replace(exported, bundle=policy.bundle), tmp_path / "server.log", policy_budget_ms=BUDGET_MS
        ) as beside,
        exploring(
            {server.grpc_url: server.metrics_url, beside.grpc_url: beside.metrics_url},
            dataset_of(exported),
            bundles,
            tmp_path / "explorer.log",
        ) as explored,
        GrpcClient(server.grpc_url) as first,
        GrpcClient(beside.grpc_url) as second,
    ):
        browser.get(explored.url)
        answers = [client.recommend(request_of(exported, 0)) for client in (first, second)]
        until_shown(browser, [row for answer in answers for row in expected(answer)])
        body = browser.find_element(By.TAG_NAME, "body")
        until(WITHIN_S, lambda: "weights chosen by the policy" in body.text, "no policy is told")
        assert answers[1].policy is not None
        assert f"Alpha {answers[1].policy.alpha:.3g} of cohort {answers[1].policy.cohort}" in body.text
        ranks = [item.item_id for item in answers[0].recommendations]
        for item in answers[1].recommendations:
            place = f"rank {ranks.index(item.item_id) + 1}" if item.item_id in ranks else "not there"
            assert f"on the left: {place}" in body.text
        browser.find_element(By.CSS_SELECTOR, ".st-key-frontier-1 label").click()
        until(WITHIN_S, lambda: bool(browser.find_elements(By.TAG_NAME, "iframe")), "no frontier")
        browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
        until(WITHIN_S, lambda: bool(browser.find_elements(By.CSS_SELECTOR, "svg")), "no chart")
        browser.switch_to.default_content()
        assert errors_of(browser) == []
