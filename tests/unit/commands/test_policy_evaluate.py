"""`unipinrec policy evaluate` on a log of a few requests, and on the log of a policy's own training."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.progress import Progress
from typer.testing import CliRunner, Result

from commands.app import app
from tests.support.exploration import ARMS, small_log
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.scored_log import score_log
from unipinrec.models.policy.config import PolicyConfig, PolicyTraining
from unipinrec.models.policy.examples import PolicyExamples, split_by_time
from unipinrec.models.policy.spec import SPEC
from unipinrec.simulator import SimulatorConfig, prepare_simulation
from unipinrec.simulator.exploration import simulate_exploration
from unipinrec.simulator.exploration_config import ExplorationConfig
from unipinrec.simulator.truth import Truth
from unipinrec.training.trainer import train

LOG = small_log(requests=400)
PRODUCTION = ARMS.production_arm


def evaluated(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", "evaluate", *map(str, arguments)], env={"COLUMNS": "120"})


def stored(folder: Path, log: ExplorationLog = LOG) -> Path:
    log.save(folder / "log")
    return folder / "log"


def chosen(folder: Path, arm: int) -> Path:
    table = pl.DataFrame({"request_id": LOG.request_id_R.astype(str), "arm": np.full(len(LOG), arm)})
    table.write_parquet(folder / "choices.parquet")
    return folder / "choices.parquet"


def test_a_static_arm_earns_the_mean_reward_of_its_requests(tmp_path: Path) -> None:
    result = evaluated("--log", stored(tmp_path), "--policy", chosen(tmp_path, 2), "--json")

    report = json.loads(result.stdout)
    assert (report["requests"], report["users"], report["synthetic"]) == (400, 20, True)
    assert report["support"] == {
        "hits": 80,
        "effective_requests": 80.0,
        "mean_weight": pytest.approx(1.0),
        "clipped": 0.0,
    }
    for number, reward in enumerate(LOG.info.rewards):
        assert set(report["rewards"][reward]) == {"ips", "snips"}
        found = report["rewards"][reward]["snips"]
        mean, production = (LOG.reward_RM[LOG.arm_R == arm, number].mean() for arm in (2, PRODUCTION))
        assert found["policy"]["mean"] == pytest.approx(mean)
        assert found["production"]["mean"] == pytest.approx(production)
        assert found["difference"]["mean"] == pytest.approx(mean - production)
        assert found["lift"]["mean"] == pytest.approx(mean / production - 1)
        assert found["difference"]["low"] < found["difference"]["mean"] < found["difference"]["high"]


def test_requests_that_did_not_explore_count_for_nothing(tmp_path: Path) -> None:
    explored_R = np.arange(len(LOG)) < 300
    log = replace(
        LOG,
        explored_R=explored_R,
        arm_R=np.where(explored_R, LOG.arm_R, PRODUCTION),
        propensity_R=np.where(explored_R, LOG.propensity_R, 1.0),
    )

    result = evaluated("--log", stored(tmp_path, log), "--policy", chosen(tmp_path, 2), "--json")

    report = json.loads(result.stdout)
    assert (report["requests"], report["support"]["hits"]) == (300, 60)
    mean = LOG.reward_RM[:300][LOG.arm_R[:300] == 2, 0].mean()
    assert report["rewards"][LOG.info.rewards[0]]["snips"]["policy"]["mean"] == pytest.approx(mean)


def test_values_and_clipping_reach_the_estimates_and_the_table(tmp_path: Path) -> None:
    values = {f"value_{name}": [[0.25] * len(ARMS)] * len(LOG) for name in LOG.info.rewards}
    file = tmp_path / "values.parquet"
    pl.DataFrame({"request_id": LOG.request_id_R.astype(str), **values}).write_parquet(file)
    options = ("--log", stored(tmp_path), "--policy", chosen(tmp_path, 2), "--values", file, "--clip", 4)

    report = json.loads(evaluated(*options, "--json").stdout)
    shown = evaluated(*options).stdout

    found = report["rewards"][LOG.info.rewards[0]]
    mean = LOG.reward_RM[LOG.arm_R == 2, 0].mean()
    assert found["dm"]["policy"]["mean"] == pytest.approx(0.25)
    # A fifth of the requests has the arm: the weight is 5, and 4 when clipped.
    assert found["dr"]["policy"]["mean"] == pytest.approx(0.25 + 0.8 * (mean - 0.25))
    assert found["sndr"]["policy"]["mean"] == pytest.approx(mean)
    assert report["support"]["clipped"] == 1.0
    assert "choices.parquet in 400 explored SYNTHETIC requests of 20 users (log small)" in shown
    assert "policy: 80 hits, 100.0% of them clipped, worth 80 requests of equal weight" in shown
    for reward in LOG.info.rewards:
        assert f"{reward}: mean and 95 % interval over users" in shown
    assert f"{mean:.4f}" in shown


@pytest.mark.parametrize(("earned", "shown"), [(0, "none, it is 0"), (1, "% to any")])
def test_a_share_of_next_to_nothing_has_no_number(tmp_path: Path, earned: int, shown: str) -> None:
    """Of 13 requests with production's arm, `earned` got the first reward."""
    log = small_log(requests=65)
    log.reward_RM[np.flatnonzero(log.arm_R == PRODUCTION)[earned:], 0] = 0
    log.reward_RM[np.flatnonzero(log.arm_R == PRODUCTION)[:earned], 0] = 1
    table = pl.DataFrame({"request_id": log.request_id_R.astype(str), "arm": np.full(len(log), 2)})
    table.write_parquet(tmp_path / "choices.parquet")

    result = evaluated("--log", stored(tmp_path, log), "--policy", tmp_path / "choices.parquet")

    assert "production: 13 hits" in result.stdout
    assert shown in result.stdout
    assert "nan" not in result.stdout
    assert "inf" not in result.stdout


@dataclass(frozen=True)
class Trained:
    data: Path
    log: Path
    training: Path
    later: ExplorationLog
    checkpoint: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    prepare_simulation(folder / "data", SimulatorConfig(users=60, items=600, sessions=6), lambda _: None)
    interactions = InteractionDataset.load(folder / "data")
    with Progress(disable=True) as progress:
        truth, asked = Truth.load(folder / "data"), ExplorationConfig(share=0.9)
        simulate_exploration(interactions, truth, asked, progress).save(folder / "log")
    log = ExplorationLog.load(folder / "log")
    training = PolicyTraining(epochs=1)
    early, later = split_by_time(log, training.evaluation_share)
    config = PolicyConfig(**interactions.catalogue_fields, arms=log.info.arms, max_history=8)
    examples = PolicyExamples(interactions, early, config, 0)
    checkpoint = train(SPEC, examples, config, training, folder / "training")
    return Trained(folder / "data", folder / "log", folder / "training", later, checkpoint)


def test_a_trained_policy_is_judged_by_what_its_training_left_out(trained: Trained) -> None:
    options = ("--log", trained.log, "--training", trained.training, "--dataset", trained.data)

    result = evaluated(*options, "--alpha", 0.25, "--json")

    later = trained.later[trained.later.explored_R]
    value_RKM = score_log(trained.checkpoint, InteractionDataset.load(trained.data), later).value_RKM
    hit_R = (0.25 * value_RKM[:, :, 1] + 0.75 * value_RKM[:, :, 0]).argmax(axis=1) == later.arm_R
    report = json.loads(result.stdout)
    assert report["requests"] == len(later)
    assert report["support"]["hits"] == hit_R.sum() > 0
    assert report["policy"].endswith("at alpha 0.25")
    for number, reward in enumerate(later.info.rewards):
        assert list(report["rewards"][reward]) == ["ips", "snips", "dm", "dr", "sndr"]
        of_hits = later.reward_RM[hit_R, number].mean()
        assert report["rewards"][reward]["snips"]["policy"]["mean"] == pytest.approx(of_hits)


def test_a_clip_of_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    result = evaluated("--log", stored(tmp_path), "--policy", chosen(tmp_path, 2), "--clip", 0)

    assert (result.exit_code, result.stderr) == (2, "clip is 0.0; allowed: above 0\n")


def test_what_the_log_cannot_say_is_refused_in_one_line(tmp_path: Path) -> None:
    without = stored(tmp_path, LOG[LOG.arm_R != 2])

    result = evaluated("--log", without, "--policy", chosen(tmp_path, 2))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "arm 2 is wanted in 320 of 320 requests and logged in 0; allowed: the 4 arms that were logged, "
        "0 to 1, 3 to 4\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a policy is given in no way or in two; allowed: --policy, with or without --values, or "),
        (("--alpha", "0.5"), "a policy is given in no way or in two"),
        (("--policy", "choices.parquet", "--alpha", "0.5"), "a policy is given in no way or in two"),
        (("--policy", "absent.parquet"), "file is absent.parquet; allowed: a file or folder that exists"),
    ],
)
def test_a_policy_that_is_not_there_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = evaluated("--log", stored(tmp_path), *arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
