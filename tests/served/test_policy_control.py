"""Alphas that are changed while a real server answers, and explored answers that become a log."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tritonclient.http
from scipy.stats import binomtest
from typer.testing import CliRunner
from unipinrec_client import GrpcClient, HttpClient, PolicyDecision, RecommendResponse, exploration_record

from commands.policy.app import app
from ensemble.policy.exploring import explored_arm
from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import NOW, Exported, serving
from tests.served.caller import asking
from tests.served.requests import stored
from tests.support.policies import PolicyExported, expected_arms, with_policy
from unipinrec.data.exploration import ExplorationInfo
from unipinrec.data.explored_answers import join
from unipinrec.models.policy.card import Alphas

KEY = "7f-right"
USERS = range(30)
SHARE, SEED = 0.2, 5
SWITCHES = 100
PATIENCE_S = 20.0
TWO = (Alphas(default=0.05, cohorts={"core": 0.1}), Alphas(default=0.9))


@pytest.fixture(scope="module")
def policy(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> PolicyExported:
    return with_policy(exported, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def governed(
    exported: Exported,
    policy: PolicyExported,
    profile: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedServer]:
    """A server whose alphas can be changed, and which explores."""
    folder = tmp_path_factory.mktemp("governed")
    with serving(
        replace(exported, bundle=policy.bundle),
        folder / "server.log",
        profile=profile,
        policy_alphas=folder / "alphas.json",
        policy_budget_ms=200,
        admin_key=KEY,
        explore_share=SHARE,
        explore_seed=SEED,
    ) as server:
        yield server


def run(server: EmbeddedServer, *arguments: str, key: str | None = KEY) -> tuple[int, list[str], str]:
    env = {"COLUMNS": "120", "UNIPINREC_ADMIN_KEY": key}
    result = CliRunner().invoke(app, [*arguments, "--url", server.grpc_url], env=env)
    return result.exit_code, result.stdout.splitlines(), result.stderr


def set_alphas(server: EmbeddedServer, alphas: Alphas) -> None:
    cohorts = [f"--cohort={cohort}={alpha}" for cohort, alpha in alphas.cohorts.items()]
    code, _, error = run(server, "set-alpha", str(alphas.default), *cohorts)
    assert (code, error) == (0, "")


def test_the_command_shows_sets_and_rolls_back(governed: EmbeddedServer, policy: PolicyExported) -> None:
    code, lines, error = run(governed, "status", key=None)
    assert (code, error) == (0, "")
    assert lines[0] == f"policy {policy.card.fingerprint[:12]}, learned from a synthetic log: 50 arms"
    assert lines[-3:] == ["  core  0.6", "  rest  0.3", "revision 0, the policy's card"]
    code, lines, _ = run(governed, "set-alpha", "0.25", "--cohort", "core=1", "--note", "try")
    assert (code, lines[2:4]) == (0, ["  core  1", "  rest  0.25"])
    assert lines[4].startswith("revision 1, 20")
    assert lines[4].endswith(" UTC: try")
    code, lines, _ = run(governed, "rollback")
    assert (code, lines[2:4]) == (0, ["  core  0.6", "  rest  0.3"])


def test_what_is_refused_is_said_in_one_line(governed: EmbeddedServer, server: EmbeddedServer) -> None:
    told = {
        ("set-alpha", "0.5"): ("other", "unipinrec-admin-key is another than the server's\n"),
        ("set-alpha", "1.5"): (KEY, "alpha is 1.5; allowed: 0 to 1\n"),
        ("set-alpha", "0.5", "--cohort", "vip=1"): (KEY, "cohort is vip; allowed: core, rest\n"),
    }
    before = run(governed, "status")
    for arguments, (key, said) in told.items():
        code, lines, error = run(governed, *arguments, key=key)
        assert (code, lines, error.count("\n")) == (2, [], 1)
        assert error.startswith(said)
    assert run(governed, "status") == before
    code, lines, error = run(server, "status")
    assert (code, lines) == (2, [])
    assert error.startswith(f"{server.grpc_url} serves no policy: its bundle has none; ")


def test_http_carries_commands_too(governed: EmbeddedServer) -> None:
    tensor = tritonclient.http.InferInput("COMMAND", [1], "BYTES")
    command = json.dumps({"set": {"default": 0.75}, "note": "m\u00fcde \u2026"}, ensure_ascii=False)
    tensor.set_data_from_numpy(np.array([command.encode()], np.object_))
    with tritonclient.http.InferenceServerClient(governed.http_url.removeprefix("http://")) as client:
        result = client.infer("policy", [tensor], headers={"Unipinrec-Admin-Key": KEY})
    status = json.loads(result.as_numpy("STATUS")[0])
    assert status["cohorts"] == {"core": 0.75, "rest": 0.75}
    assert status["note"] == "m\u00fcde \u2026"
    assert run(governed, "status", key=None)[1][-1].endswith(" UTC: m\u00fcde \u2026")


def test_alphas_switch_under_load_and_every_answer_is_made_with_one_that_it_tells(
    governed: EmbeddedServer, exported: Exported, policy: PolicyExported
) -> None:
    requests = [stored(exported, user) for user in USERS]
    right = [
        dict(zip((request.user_id for request in requests), arms, strict=True))
        for arms in (expected_arms(policy, exported, requests, alphas) for alphas in TWO)
    ]
    assert sum(right[0][user].isdisjoint(right[1][user]) for user in right[0]) > 5
    set_alphas(governed, TWO[1])
    first = revision_of(governed)
    with asking(governed.grpc_url, requests, threads=2) as seen:
        seen.until(lambda answer: revision_told(answer) == first, PATIENCE_S)
        began = time.monotonic()
        for switch in range(SWITCHES):
            set_alphas(governed, TWO[switch % 2])
            if switch % 10 == 0:
                now = first + switch + 1
                seen.until(lambda answer, now=now: revision_told(answer) == now, PATIENCE_S)
        seen.until(lambda answer: revision_told(answer) == first + SWITCHES, PATIENCE_S)
        answers = seen.since(began)
    assert not seen.failures
    told = {revision for answer in answers if (revision := revision_told(answer)) is not None}
    assert told <= set(range(first, first + SWITCHES + 1))
    assert len(told) >= SWITCHES / 10
    for answer in answers:
        if answer.utility_source == "chosen":
            switch = (answer.policy.revision - first - 1) % 2
            assert answer.policy.alpha == pytest.approx(TWO[switch].of(answer.policy.cohort))
            assert answer.policy.arm in right[switch][answer.user_id]


def test_explored_answers_are_drawn_by_request_and_become_a_log(
    governed: EmbeddedServer, exported: Exported, policy: PolicyExported, tmp_path: Path
) -> None:
    arms = policy.card.arms
    records, explored, requests = [], [], [stored(exported, user) for user in range(3)]
    with GrpcClient(governed.grpc_url) as client, HttpClient(governed.http_url) as http:
        for number in range(100):
            asked = http if number % 4 == 0 else client
            answers = asked.recommend_many(requests, request_id=f"request-{number}")
            for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
                name = answer.request_id.encode()
                arm = explored_arm(name, place, share=SHARE, seed=SEED, arms=len(arms))
                assert (answer.utility_source == "explored") == (arm is not None)
                records.append(exploration_record(request, answer))
                if arm is not None:
                    assert answer.policy == PolicyDecision(arm=arm, propensity=1 / len(arms), explored=True)
                    assert answer.utility_weights == pytest.approx(arms.weights()[arm].tolist())
                    explored.append((answer, arm))
    assert binomtest(len(explored), 300, SHARE).pvalue > 1e-3
    file, feedback = tmp_path / "answers.jsonl", tmp_path / "feedback.parquet"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    liked = explored[::2]
    acted = [(a.request_id, a.user_id, a.recommendations[3].item_id, 0b010) for a, _ in liked]
    pl.DataFrame(acted, ["request_id", "user_id", "item_id", "actions"], orient="row").write_parquet(feedback)
    joined = join(file, feedback, ExplorationInfo(name="served", arms=arms, synthetic=True))
    assert len(joined.log) == len(explored)
    assert sorted(joined.log.arm_R) == sorted(arm for _, arm in explored)
    assert joined.log.reward_RM.sum(axis=0).tolist() == [0.0, len(liked)]
    assert set(joined.log.timestamp_R) == {NOW}


def revision_of(server: EmbeddedServer) -> int:
    return int(run(server, "status")[1][-1].split()[1].rstrip(","))


def revision_told(answer: RecommendResponse) -> int | None:
    return answer.policy.revision if answer.policy else None
