"""What bundles hold differs: ensembles come and go with a rollout, and models beside them change in place."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from unipinrec_client import AppendRequest, Event, GrpcClient, RecommendError

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import CommandCanary, check_bundle
from ensemble.server.rollout import Rollout
from tests.conftest import Exported, serving
from tests.served.caller import ONCE, asking
from tests.served.requests import stored
from tests.support.policies import with_policy
from tests.support.second_rankers import with_second_ranker

FULL = "recommend_full"


@contextmanager
def appending(url: str) -> Iterator[list[str]]:
    """Append events of one user while the block runs; yields what failed."""
    failures, stopped = list[str](), threading.Event()

    def append() -> None:
        with GrpcClient(url, retry=ONCE) as client:
            for number in range(1_000_000):
                if stopped.wait(0.02):
                    return
                events = [Event(item_id=1000, actions=1, timestamp=number)]
                try:
                    client.append_events(AppendRequest(user_id="appended", events=events))
                except RecommendError as error:
                    failures.append(str(error))

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield failures
    finally:
        stopped.set()
        thread.join()


def sources(server: EmbeddedServer, exported: Exported) -> set[str]:
    """Who said what actions are worth, in answers to some users."""
    with GrpcClient(server.grpc_url, retry=ONCE) as client:
        return {client.recommend(stored(exported, user)).utility_source for user in range(8)}


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_models_of_one_bundle_alone_come_and_go(
    exported: Exported, profile: str | None, tmp_path: Path
) -> None:
    policy = with_policy(exported, tmp_path / "policy")
    ranker = with_second_ranker(exported, tmp_path / "ranker", "transact-v2")
    own = replace(exported, histories=tmp_path / "histories")
    settings = {"append_events": True, "policy_budget_ms": 1_000, "policy_alphas": tmp_path / "alphas.json"}
    with serving(own, tmp_path / "server.log", profile=profile, **settings) as server:
        rollout = Rollout(server, check_bundle)
        requests = [stored(exported, user) for user in range(8)]
        with asking(server.grpc_url, requests, threads=1) as seen, appending(server.grpc_url) as failures:
            rollout.deploy(policy.bundle, print)
            with server.client() as client:
                CommandCanary(model="policy", timeout_s=30.0)(client)
            assert sources(server, exported) == {"chosen"}

            rollout.deploy(ranker.bundle, print)
            assert server.ensembles == ["recommend", "recommend_full"]
            assert "policy" not in server.models
            with GrpcClient(server.grpc_url, model=FULL, retry=ONCE) as client:
                answer = client.recommend(requests[0])
            assert answer.bundle_id == ranker.bundle.name

            rollout.rollback(print)
            assert server.ensembles == ["recommend"]
            assert "policy" in server.models
            with (
                GrpcClient(server.grpc_url, model=FULL, retry=ONCE) as client,
                pytest.raises(RecommendError, match="recommend_full"),
            ):
                client.recommend(requests[0])
            assert sources(server, exported) == {"chosen"}
    assert seen.failures == []
    assert failures == []
