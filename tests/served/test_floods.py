"""More requests than can be answered: some are answered in time, others refused, and nothing is in vain."""

import asyncio
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner
from unipinrec_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
    RetryPolicy,
    UnavailableError,
)

from commands.app import app
from ensemble.server.embedded_server import EmbeddedServer, failure_of
from ensemble.server.launcher import UserCanary
from tests.conftest import Exported, serving
from tests.served.caller import ONCE
from tests.served.exchange import exchange
from tests.served.metrics import Scrape
from tests.served.nodes import NODES, inputs_of
from tests.served.requests import stored
from tests.support.answers import Likeness, assert_alike
from tests.support.waiting import holds_within

LIMIT, CROWD = 24, 200


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a crowd."""

    outcome: RecommendResponse | RecommendError
    took_s: float


@pytest.fixture(scope="module")
def small(
    exported: Exported, profile: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server that lets few users in at once, however patient they are."""
    log_path = tmp_path_factory.mktemp("floods") / "server.log"
    with serving(exported, log_path, profile=profile, max_in_flight=LIMIT) as server:
        yield server


def crowd(
    server: EmbeddedServer,
    requests: list[RecommendRequest],
    kind: type[AsyncGrpcClient | AsyncHttpClient],
    timeout_s: float,
    retry: RetryPolicy = ONCE,
) -> list[Asked]:
    """What becomes of all requests, sent at once."""
    url = server.grpc_url if kind is AsyncGrpcClient else server.http_url

    async def ask_all() -> list[Asked]:
        async with kind(url, timeout_s=timeout_s, retry=retry) as client:

            async def ask(request: RecommendRequest) -> Asked:
                began = time.monotonic()
                try:
                    outcome: RecommendResponse | RecommendError = await client.recommend(request)
                except RecommendError as error:
                    outcome = error
                return Asked(outcome, time.monotonic() - began)

            await client.recommend(requests[0])
            return await asyncio.gather(*(ask(request) for request in requests))

    return asyncio.run(ask_all())


def in_flight(server: EmbeddedServer) -> float:
    return Scrape(server).value("unipinrec_in_flight_users", node="history")


def failed(scrape: Scrape, node: str, reason: str) -> float:
    return scrape.value("unipinrec_failed_requests_total", node=node, reason=reason)


@pytest.mark.parametrize("kind", [AsyncGrpcClient, AsyncHttpClient])
def test_what_is_let_in_is_answered_and_the_rest_is_told_when_to_come_again(
    small: EmbeddedServer,
    exported: Exported,
    promised: Likeness,
    kind: type[AsyncGrpcClient | AsyncHttpClient],
) -> None:
    requests = [stored(exported, user) for user in range(CROWD)]
    before = Scrape(small)
    asked = crowd(small, requests, kind, timeout_s=20.0)
    after = Scrape(small)
    answered = [
        (r, a.outcome)
        for r, a in zip(requests, asked, strict=True)
        if isinstance(a.outcome, RecommendResponse)
    ]
    refused = [a.outcome for a in asked if isinstance(a.outcome, UnavailableError)]
    assert len(answered) + len(refused) == CROWD
    assert len(answered) >= LIMIT
    assert refused
    assert all(error.retry_after_s > 0 and "users are ahead" in str(error) for error in refused)
    assert failed(after, "history", "refused") - failed(before, "history", "refused") == len(refused)
    with GrpcClient(small.grpc_url) as client:
        alone = [client.recommend(request) for request, _ in answered]
    assert_alike([answer for _, answer in answered], alone, promised)
    assert holds_within(5, lambda: in_flight(small) == 0)


def test_a_crowd_that_retries_with_a_budget_large_enough_is_answered(
    small: EmbeddedServer, exported: Exported
) -> None:
    requests = [stored(exported, user) for user in range(CROWD)]
    patient = RetryPolicy(attempts=1_000, budget=math.inf)
    asked = crowd(small, requests, AsyncGrpcClient, timeout_s=60.0, retry=patient)
    assert all(isinstance(one.outcome, RecommendResponse) for one in asked)


def test_canaries_are_answered_while_a_crowd_is_refused(small: EmbeddedServer, exported: Exported) -> None:
    requests = [stored(exported, user) for user in range(CROWD)]

    async def meanwhile() -> tuple[list[Asked], list[str | None]]:
        loop = asyncio.get_running_loop()
        asking = loop.run_in_executor(None, crowd, small, requests * 3, AsyncGrpcClient, 20.0)
        failures = []
        with small.client() as client:
            while not asking.done():
                failures.append(await loop.run_in_executor(None, failure_of, UserCanary(), client))
        return await asking, failures

    asked, failures = asyncio.run(meanwhile())
    assert any(isinstance(one.outcome, UnavailableError) for one in asked)
    assert set(failures) == {None}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_request_that_has_expired_is_computed_by_no_node(server: EmbeddedServer, protocol: str) -> None:
    before = Scrape(server)
    if protocol == "grpc":
        user = {"USER_ID": np.array([[b"user-1"]], np.object_)}
        with (
            triton.InferenceServerClient(server.grpc_url) as client,
            pytest.raises(InferenceServerException) as refused,
        ):
            client.infer("recommend", inputs_of(user), timeout=1)
        status, said = refused.value.status(), str(refused.value)
    else:
        user_id = {"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": ["user-1"]}
        body = json.dumps({"inputs": [user_id], "parameters": {"timeout": 1}}).encode()
        status, answer = exchange("POST", f"{server.http_url}/v2/models/recommend/infer", body)
        said = answer.decode()
    assert status in ("StatusCode.UNAVAILABLE", 503)
    assert "deadline passed" in said
    after = Scrape(server)
    expired = [sum(failed(scrape, node, "expired") for node in NODES) for scrape in (before, after)]
    assert expired[1] - expired[0] == 1
    for node in set(NODES) - {"history"}:
        rows = [scrape.value("unipinrec_batch_rows_sum", node=node) for scrape in (before, after)]
        assert rows[0] == rows[1], node


def test_hardly_a_request_is_computed_in_vain_and_who_comes_next_does_not_wait(
    server: EmbeddedServer, exported: Exported
) -> None:
    requests = [stored(exported, user) for user in range(250)]
    crowd(server, requests, AsyncGrpcClient, timeout_s=20.0)

    def hardly_in_vain() -> bool:
        before = Scrape(server)
        asked = crowd(server, requests, AsyncGrpcClient, timeout_s=0.2)
        with GrpcClient(server.grpc_url) as client:
            began = time.monotonic()
            client.recommend(requests[0])
            waited_s = time.monotonic() - began
        after = Scrape(server)
        answered = sum(isinstance(one.outcome, RecommendResponse) for one in asked)
        rows = [scrape.value("unipinrec_batch_rows_sum", node="ranking") for scrape in (before, after)]
        # Two more are the first request of the crowd, and who comes next.
        in_vain = rows[1] - rows[0] - answered - 2
        print(f"answered {answered}, in vain {in_vain:.0f}, next caller waits {1e3 * waited_s:.0f} ms")
        return in_vain <= 0.1 * (len(requests) - answered)

    # A crowd that this host holds up until its deadline finds its answers in vain, whatever the server does.
    assert any(hardly_in_vain() for _ in range(5))


def test_callers_who_are_gone_are_not_counted_for_long(server: EmbeddedServer, exported: Exported) -> None:
    """Over gRPC alone, whose own deadline no node is told."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        for user in range(40):
            name = stored(exported, user).user_id.encode()
            user_id = {"USER_ID": np.array([[name]], np.object_)}
            client.async_infer("recommend", inputs_of(user_id), lambda **_: None, client_timeout=0.005)
        time.sleep(0.5)
    with GrpcClient(server.grpc_url) as patient:
        for _ in range(3):
            time.sleep(0.6)
            patient.recommend(stored(exported, 0))
    assert in_flight(server) <= 1


@pytest.mark.slow
def test_a_flood_is_measured(tmp_path: Path) -> None:
    arguments = ("bench", "flood", "--seconds", "5", "--without", "0", "--out", str(tmp_path))
    previous = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "flood.json").read_text())["sweeps"]["with admission"]
    measured = {point["value"]: point["measured"] for point in points}
    flood, burst = measured["flood"], measured["burst"]
    assert flood["offered, 1/s"] > 3 * measured["closed loop"]["answered, 1/s"]
    assert flood["answered in time, 1/s"] > 0
    assert flood["refused, 1/s"] > 0
    assert flood["other, 1/s"] == 0
    assert flood["normal again after, s"] < 5
    assert burst["answered in time"] + burst["refused in time"] > 0
