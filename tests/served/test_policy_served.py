"""A policy beside the graph of a real server: its choices, and that no fault of it costs an answer."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unipinrec_client import GrpcClient, HttpClient, RecommendResponse

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import default_canaries
from ensemble.server.watchdog import Watchdog
from tests.conftest import Exported, serving
from tests.served.caller import asking
from tests.served.requests import stored
from tests.support.faulty_policy import FAULT
from tests.support.policies import PolicyExported, expected_arms, with_policy

USERS = range(40)
HEAL_S = 5.0
KEY = "a key of the tests"


@pytest.fixture(scope="module")
def policy(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> PolicyExported:
    return with_policy(exported, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("fault") / "fault"
    file.write_text("")
    return file


@pytest.fixture(scope="module")
def policy_server(
    exported: Exported,
    policy: PolicyExported,
    fault: Path,
    profile: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("policy-server")
    repository = shutil.copytree(MODEL_REPOSITORY, folder / "models")
    entry = repository / "policy" / "1" / "model.py"
    text = entry.read_text()
    for old, new in (
        ("ensemble.nodes.policy", "tests.support.faulty_policy"),
        ("PolicyNode", "FaultyPolicyNode"),
    ):
        text = text.replace(old, new)
    entry.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FAULT, str(fault))
        with serving(
            replace(exported, bundle=policy.bundle),
            folder / "server.log",
            model_repository=repository,
            profile=profile,
            policy_alphas=folder / "alphas.json",
            admin_key=KEY,
            policy_budget_ms=50,
        ) as server:
            yield server


@pytest.fixture(autouse=True)
def no_fault(fault: Path) -> Iterator[None]:
    yield
    fault.write_text("")


def chosen(response: RecommendResponse) -> bool:
    return response.utility_source == "chosen"


def fallback_of(response: RecommendResponse) -> str | None:
    return response.policy.fallback if response.policy else None


def test_the_policy_chooses_as_offline_pytorch_does_and_the_answer_tells(
    policy_server: EmbeddedServer, exported: Exported, policy: PolicyExported
) -> None:
    requests = [stored(exported, user) for user in USERS]
    right = expected_arms(policy, exported, requests)
    assert len(set().union(*right)) > 3
    with GrpcClient(policy_server.grpc_url) as client, HttpClient(policy_server.http_url) as http:
        for request, arms in zip(requests, right, strict=True):
            for answer in (client.recommend(request), http.recommend(request)):
                assert answer.policy is not None
                assert answer.utility_source == "chosen"
                assert answer.policy.arm in arms
                assert answer.policy.policy == policy.card.fingerprint[:12]
                assert answer.utility_weights == pytest.approx(
                    policy.card.arms.weights()[answer.policy.arm].tolist()
                )
                assert answer.policy.alpha == policy.card.chosen.of(answer.policy.cohort or "")
                scores = [item.score for item in answer.recommendations]
                by_weights = [
                    sum(w * p for w, p in zip(answer.utility_weights, item.action_probabilities, strict=True))
                    for item in answer.recommendations
                ]
                assert scores == pytest.approx(by_weights, abs=1e-4)


def test_weights_of_the_caller_count_before_the_policy_s(
    policy_server: EmbeddedServer, exported: Exported
) -> None:
    request = replace(stored(exported, 3), utility_weights=(0.0, 1.0, 0.0))
    with GrpcClient(policy_server.grpc_url) as client:
        answer = client.recommend(request)
    assert (answer.utility_source, answer.utility_weights, answer.policy) == ("given", (0.0, 1.0, 0.0), None)


@pytest.mark.parametrize(
    ("name", "reason", "others"),
    [("raise", "failed", set()), ("nan", "invalid", set()), ("slow", "late", {"busy"})],
)
def test_a_policy_that_is_broken_costs_no_answer(
    policy_server: EmbeddedServer, exported: Exported, fault: Path, name: str, reason: str, others: set[str]
) -> None:
    static = exported.dataset.info.utility_weights
    with asking(policy_server.grpc_url, [stored(exported, user) for user in USERS]) as seen:
        seen.until(chosen, HEAL_S)
        fault.write_text(name)
        seen.until(lambda answer: fallback_of(answer) == reason, HEAL_S)
        broken = time.monotonic()
        time.sleep(1.5)
        found = seen.since(broken)
        fault.write_text("")
        healed = seen.until(chosen, HEAL_S)
    assert not seen.failures
    assert {reason} <= {fallback_of(answer) for answer in found} <= {reason, *others}
    assert {(answer.utility_source, answer.utility_weights) for answer in found} == {("default", static)}
    assert healed < HEAL_S


def test_a_policy_that_is_killed_under_load_costs_no_answer_and_comes_back(
    policy_server: EmbeddedServer, exported: Exported
) -> None:
    server_pid = policy_server.pid
    canaries = default_canaries(policy_server)
    with (
        Watchdog(policy_server, canaries, report=print),
        asking(policy_server.grpc_url, [stored(exported, user) for user in USERS]) as seen,
    ):
        for _ in range(3):
            seen.until(chosen, HEAL_S)
            (process,) = policy_server.node_processes("policy")
            os.kill(process, signal.SIGKILL)
            gone = seen.until(lambda answer: fallback_of(answer) in ("dead", "late"), HEAL_S)
            healed = seen.until(chosen, HEAL_S)
            print(f"first answer without after {gone:.2f} s, with again after {healed:.2f} s")
            time.sleep(3.0)
    assert not seen.failures
    assert policy_server.pid == server_pid
