"""`unipinrec policy sweep`: from a trained policy and its log to a card, a page and a table."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from commands.app import app
from experiments.frontier_page import PAGE
from tests.support.explored import ARMS, expected_rewards, explored_dataset, explored_log
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.scored_log import score_log
from unipinrec.models.policy.card import CARD, Evidence, PolicyCard
from unipinrec.models.policy.judged import HeldOut
from unipinrec.models.policy.sweep import ALPHAS, halves
from unipinrec.training.checkpoint import fingerprint, latest_checkpoint

COHORT_NAMES = ("core", "casual", "rest")


@dataclass(frozen=True)
class World:
    data: Path
    log: Path
    training: Path

    def options(self, **changed: Path) -> list[str]:
        folders = {"dataset": self.data, "log": self.log, "training": self.training} | changed
        return [text for name, folder in folders.items() for text in (f"--{name}", str(folder))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(folder / "data", folder / "log", folder / "training")
    log, _ = explored_log(explored_dataset(made.data, users=120), requests=12_000)
    log.save(made.log)
    trained = CliRunner().invoke(
        app,
        ["policy", "train", *made.options()[:4], "--out", str(made.training), "--epochs", "2",
         "--batch-size", "128", "--learning-rate", "0.01", "--max-history", "12", "--device", "cpu"],
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    return made


@pytest.fixture(scope="module")
def swept(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of what was written, and what was told."""
    out = tmp_path_factory.mktemp("swept")
    result = CliRunner().invoke(
        app, ["policy", "sweep", *world.options(), "--out", str(out)], env={"COLUMNS": "160"}
    )
    assert result.exit_code == 0, result.output
    return out, result.stdout


def read(out: Path) -> tuple[PolicyCard, Evidence]:
    card = PolicyCard.model_validate_json((out / CARD).read_text())
    assert card.evidence is not None
    return card, card.evidence


def test_the_card_says_what_it_comes_from(world: World, swept: tuple[Path, str]) -> None:
    card, evidence = read(swept[0])
    checkpoint, log = latest_checkpoint(world.training), ExplorationLog.load(world.log)
    assert checkpoint is not None
    assert card.fingerprint == fingerprint(checkpoint)
    assert (card.synthetic, card.arms, card.rewards) == (True, ARMS, ("save", "share"))
    assert card.cohorts == COHORT_NAMES
    assert evidence.log.sha256 == {"exploration": log.info.sha256}
    assert evidence.dataset.sha256 == InteractionDataset.load(world.data).info.sha256
    assert evidence.training_config.epochs == 2
    # A third of the explored requests, the latest ones, is held out.
    assert evidence.training.last < evidence.evaluation.first
    assert evidence.training.requests + evidence.evaluation.requests == log.explored_R.sum()
    assert evidence.evaluation.requests == pytest.approx(log.explored_R.sum() / 3, rel=0.01)
    groups = evidence.sweep.choosing, evidence.sweep.everyone
    assert sum(group.requests for group in groups) == evidence.evaluation.requests
    assert sum(group.users for group in groups) == evidence.evaluation.users


def test_lifts_in_the_card_agree_with_the_true_ones(world: World, swept: tuple[Path, str]) -> None:
    _, evidence = read(swept[0])
    log, checkpoint = ExplorationLog.load(world.log), latest_checkpoint(world.training)
    assert checkpoint is not None
    late = log[log.explored_R & (log.timestamp_R >= evidence.evaluation.first)]
    reporting = late[~halves(late.user_id_R)]
    scored = score_log(checkpoint, InteractionDataset.load(world.data), reporting)
    requests = HeldOut(
        log=reporting,
        value_RKM=scored.value_RKM,
        cohort_R=scored.cohort_R,
        cohorts=("core", "casual", "rest"),
    )
    user_R = np.array([int(user.removeprefix("user-")) for user in reporting.user_id_R])
    expected_RKM = expected_rewards(user_R)
    production_M = expected_RKM[:, ARMS.production_arm].mean(axis=0)
    within = []
    for alpha, point in zip(ALPHAS, evidence.sweep.everyone.alphas, strict=True):
        chosen_RM = expected_RKM[np.arange(len(reporting)), requests.arms_at(alpha)]
        true_M = chosen_RM.mean(axis=0) / production_M - 1
        within += [
            reward.lift.low <= true <= reward.lift.high
            for reward, true in zip((point.first, point.second), true_M, strict=True)
        ]
    assert np.mean(within) >= 0.9
    # The first weight helps one kind of users and harms the other: no static arm does what the policy does.
    assert evidence.sweep.everyone.alphas[0].first.lift.low > 0.1


def test_the_table_has_every_alpha_and_the_reason(swept: tuple[Path, str]) -> None:
    out, told = swept
    card, evidence = read(out)
    assert "SYNTHETIC" in told
    assert re.findall(r"│ alpha (\d\.\d{3}) ", told) == [f"{alpha:.3f}" for alpha in ALPHAS]
    assert f"{evidence.sweep.everyone.alphas[7].first.lift.value:+.2%} (" in told
    assert card.why in told
    (found,) = re.findall(r"guardrail lift:save: (\S+), at least -2.00%, (?:holds|fails)\n", told)
    assert found == f"{card.guardrails[0].value:+.2%}"
    assert (out / PAGE).stat().st_size > 500_000


def test_a_failed_guardrail_is_told_and_the_card_has_the_production_weights(
    world: World, tmp_path: Path
) -> None:
    options = [
        "--out",
        str(tmp_path),
        "--alpha",
        "1",
        "--guardrail",
        "lift:save=0.5",
        "--guardrail",
        "hits=10",
    ]
    result = CliRunner().invoke(app, ["policy", "sweep", *world.options(), *options])
    card, evidence = read(tmp_path)
    assert result.exit_code == 0
    assert ", at least +50.00%, fails\n" in result.stdout
    assert "Production weights, since alpha (alpha 1) fails lift:save" in result.stdout
    assert "To have a point chosen: more explored requests" in result.stdout
    assert card.chosen is None
    assert {rail.name: rail.limit for rail in card.guardrails} == {
        "lift:save": 0.5, "lift:share": -0.02, "hits": 10, "effective_requests": 100
    }  # fmt: skip
    assert evidence.sweep.candidates[-1].alphas.default == 1.0


def test_what_cannot_be_swept_is_refused_in_one_line(world: World, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["policy", "sweep", *arguments, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists()
        return result.stderr.strip().splitlines()[-1]

    other, _ = explored_log(InteractionDataset.load(world.data), requests=3_000, seed=5)
    other.save(tmp_path / "other")
    message = refused(*world.options(log=tmp_path / "other"))
    assert message.endswith("was not trained on log by-hand; allowed: the log of its training")
    message = refused(*world.options(training=tmp_path / "none"))
    assert message == (
        f"--training is {tmp_path / 'none'}, which holds no checkpoint; run `unipinrec policy train`"
    )
    message = refused(*world.options(), "--guardrail", "lift:click=0")
    assert message == "guardrail is lift:click; allowed: lift:save, lift:share, hits, effective_requests"
    message = refused(*world.options(), "--guardrail", "hits")
    assert message == "guardrail is 'hits'; allowed: NAME=LIMIT, such as hits=100"
    message = refused(*world.options(), "--alpha", "0.2", "--point", "knee")
    assert message == "--alpha stands beside --point or --by-cohort; allowed: one of them"
