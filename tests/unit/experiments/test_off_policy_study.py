"""The bandit's truth against its own draws, and a small study of the estimators on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from commands.app import app
from experiments.bandit import LEARNED, PRODUCTION, Bandit, World
from experiments.off_policy import study
from unipinrec.evaluation.estimators import Estimator

SMALL = World(name="small", users=600, requests=5, appetite=8.0, mood=1.0, training_requests=20_000)
LOGS = 150


def test_the_truth_is_what_policies_earn_when_they_are_served() -> None:
    """Rewards of the logged requests with the policy's arm in a log of half a million requests."""
    bandit = Bandit(SMALL.model_copy(update={"users": 100_000}), seed=1)
    log, policies = bandit.log(0)

    for policy in (LEARNED, PRODUCTION):
        rewards = log.reward_R[log.arm_R == policies[policy]]
        error = np.sqrt(rewards.var() / len(rewards))
        # Requests of a user go together, which widens the error a little.
        assert abs(rewards.mean() - bandit.truths[policy]) < 4 * error
    assert bandit.truths[LEARNED] > bandit.truths[PRODUCTION] + 0.02


def test_the_share_that_the_model_explains_is_that_of_a_log() -> None:
    bandit = Bandit(SMALL.model_copy(update={"users": 100_000}), seed=1)
    log, policies = bandit.log(0)
    hit_R = log.arm_R == policies[LEARNED]
    assert log.value_RK is not None
    expected_R = log.value_RK[hit_R, policies[LEARNED][hit_R]]
    left = np.square(log.reward_R[hit_R] - expected_R).mean() / log.reward_R[hit_R].var()

    assert bandit.explained() == pytest.approx(1 - left, abs=0.02)


def test_intervals_hold_the_truth_and_a_model_that_explains_halves_the_error() -> None:
    report = study((SMALL,), LOGS, seed=0, track=lambda numbers, _: numbers)

    world = report.worlds[0]
    found = {(each.estimator, each.quantity): each for each in world.accuracies}
    assert world.hits == pytest.approx(600 * 5 / 50, rel=0.05)
    assert 0.5 < world.explained < 0.9
    for estimator in (Estimator.SNIPS, Estimator.DR, Estimator.SNDR):
        each = found[estimator, "value"]
        # 95 % of 150, within three standard deviations of counting.
        assert each.coverage == pytest.approx(0.95, abs=0.055)
        assert abs(each.bias) < 3 * each.deviation / np.sqrt(LOGS)
    assert found[Estimator.DR, "value"].error_over_hit.mean < 0.6
    assert found[Estimator.DR, "difference"].error_over_hit.high < 0.6
    # A model's own estimate is off by more than its interval tells.
    assert found[Estimator.DM, "difference"].coverage < 0.5


def test_the_command_writes_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.policy.study.WORLDS", (SMALL,))
    out = tmp_path / "folder" / "study.json"

    result = CliRunner().invoke(app, ["policy", "study", "--logs", "3", "--out", str(out)])

    report = json.loads(out.read_text())
    assert (report["logs"], report["synthetic"], report["worlds"][0]["world"]["name"]) == (3, True, "small")
    assert "small (SYNTHETIC): 3 logs" in result.stdout
    coverage = {each["coverage"] for each in report["worlds"][0]["accuracies"]}
    assert all(f"{share:.1%}" in result.stdout for share in coverage)
