"""A policy learns what each arm brings from explored requests alone, repeatably and resumably."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.explored import (
    ARMS,
    BEGIN,
    DAY,
    expected_rewards,
    explored_dataset,
    explored_log,
    small_config,
)
from unipinrec.arrays import Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.scored_log import score_log
from unipinrec.models.common.objective import Share
from unipinrec.models.policy.cohorts import cohort_of
from unipinrec.models.policy.config import PolicyTraining
from unipinrec.models.policy.examples import PolicyBatch, PolicyExamples, split_by_time
from unipinrec.models.policy.module import StateTensors, ValueNetwork
from unipinrec.models.policy.objective import PolicyObjective
from unipinrec.models.policy.spec import SPEC
from unipinrec.training.checkpoint import CheckpointMismatchError, fingerprint, load_model, load_state
from unipinrec.training.trainer import train

TRAINING = PolicyTraining(epochs=12, batch_size=128, learning_rate=1e-2)
SHORT = PolicyTraining(epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    return explored_dataset(tmp_path_factory.mktemp("policy") / "data")


@pytest.fixture(scope="module")
def logged(dataset: InteractionDataset) -> tuple[ExplorationLog, Int64s]:
    return explored_log(dataset, 6_000)


def run(dataset: InteractionDataset, log: ExplorationLog, training: PolicyTraining, folder: Path) -> Path:
    config = small_config(dataset)
    return train(SPEC, PolicyExamples(dataset, log, config, training.seed), config, training, folder)


@pytest.fixture(scope="module")
def learned(
    dataset: InteractionDataset,
    logged: tuple[ExplorationLog, Int64s],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return run(dataset, logged[0], TRAINING, tmp_path_factory.mktemp("learned"))


def test_expected_rewards_are_learned_from_single_outcomes(
    dataset: InteractionDataset, learned: Path
) -> None:
    log, user_R = explored_log(dataset, 500, seed=3)
    scored = score_log(learned, dataset, log)
    expected_RKM = expected_rewards(user_R)
    # Of users with a few events before the request, whose kind shows.
    shows_R = np.array([len(history_before(dataset, log, row)) >= 4 for row in range(500)])
    error_RKM = (scored.value_RKM - expected_RKM)[shows_R]
    assert np.sqrt((error_RKM**2).mean()) < 0.06
    # What no state would tell: the same two numbers for each arm.
    blind_KM = expected_RKM[shows_R].mean(0)
    assert np.sqrt(((blind_KM - expected_RKM[shows_R]) ** 2).mean()) > 0.15
    best_R = scored.value_RKM[shows_R, :, 0].argmax(1)
    right_R = np.isclose(ARMS.places()[best_R, 0], np.where(user_R[shows_R] % 2 == 0, 1.0, 0.0))
    assert right_R.mean() > 0.97


def history_before(dataset: InteractionDataset, log: ExplorationLog, row: int) -> Any:
    history = dataset.history(list(dataset.user_ids_U).index(log.user_id_R[row]))
    return history[history.timestamp_N < log.timestamp_R[row]]


def test_scored_cohorts_are_those_of_serving(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s], learned: Path
) -> None:
    log = logged[0][:300]
    config = load_model(learned).config
    expected = [
        cohort_of(history_before(dataset, log, row), int(log.timestamp_R[row]), config) for row in range(300)
    ]
    told: list[tuple[int, int]] = []
    scored = score_log(learned, dataset, log, lambda *counts: told.append(counts))
    assert scored.cohort_R.tolist() == expected
    assert set(expected) == {0, 1, 2}
    assert told[-1] == (300, 300)


class Cut(PolicyExamples):
    """The same examples, until the second epoch begins."""

    def set_epoch(self, epoch: int) -> None:
        if epoch == 1:
            raise InterruptedError


def test_a_run_that_was_cut_ends_in_the_same_policy(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s], tmp_path: Path
) -> None:
    log, config = logged[0][:700], small_config(dataset, dropout=0.1)

    def examples(kind: type[PolicyExamples]) -> PolicyExamples:
        return kind(dataset, log, config, SHORT.seed)

    whole = train(SPEC, examples(PolicyExamples), config, SHORT, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(SPEC, examples(Cut), config, SHORT, tmp_path / "cut")
    resumed = train(SPEC, examples(PolicyExamples), config, SHORT, tmp_path / "cut")
    weights, others = (load_file(path / "model.safetensors") for path in (whole, resumed))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert fingerprint(whole) == fingerprint(resumed)
    other = train(
        SPEC, examples(PolicyExamples), config, SHORT.model_copy(update={"seed": 1}), tmp_path / "other"
    )
    assert fingerprint(other) != fingerprint(whole)


def test_a_checkpoint_belongs_to_its_log(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s], tmp_path: Path
) -> None:
    log, one = logged[0][:200], PolicyTraining(epochs=1, batch_size=100)
    checkpoint = run(dataset, log, one, tmp_path)
    assert load_state(checkpoint).dataset == dataset.info.sha256 | {"exploration": "0" * 64}
    other = replace(log, info=log.info.model_copy(update={"sha256": "1" * 64}))
    with pytest.raises(CheckpointMismatchError, match="another configuration or dataset"):
        run(dataset, other, one, tmp_path)
    with pytest.raises(CheckpointMismatchError, match="another configuration or dataset"):
        run(dataset, log, one.model_copy(update={"evaluation_share": 0.5}), tmp_path)


def test_a_fingerprint_is_of_weights_and_configuration(learned: Path, tmp_path: Path) -> None:
    same = shutil.copytree(learned, tmp_path / "same")
    state = json.loads((same / "state.json").read_text())
    (same / "state.json").write_text(json.dumps(state | {"step": 1, "metrics": {}}))
    assert fingerprint(same) == fingerprint(learned)
    state["model"]["cohorts"] = []
    (same / "state.json").write_text(json.dumps(state))
    assert fingerprint(same) != fingerprint(learned)


def test_only_explored_requests_are_learned_from(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s]
) -> None:
    log, _ = logged
    examples = PolicyExamples(dataset, log, small_config(dataset), 0)
    batches = list(examples.batches(batch_size=100, seed=4, workers=0, draw=torch.Generator()))
    assert len(examples) == log.explored_R.sum() < len(log)
    sizes = [len(batch.reward_BM) for batch in batches]
    assert sum(sizes) == len(examples)
    assert max(sizes) - min(sizes) <= 1
    place_R2 = np.concatenate([batch.place_B2.numpy() for batch in batches])
    reward_RM = np.concatenate([batch.reward_BM.numpy() for batch in batches])
    expected = np.concatenate([ARMS.places()[log.arm_R], log.reward_RM], axis=1)[log.explored_R]
    found = np.concatenate([place_R2, reward_RM], axis=1)
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=1e-6)
    again = next(iter(examples.batches(batch_size=100, seed=4, workers=0, draw=torch.Generator())))
    assert torch.equal(again.reward_BM, batches[0].reward_BM)


def test_the_loss_is_the_sum_over_rewards_of_the_mean_squared_error() -> None:
    class Fixed(ValueNetwork):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, _state: StateTensors, _place_B2: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.5, 0.0], [0.25, 1.0]])

    objective = PolicyObjective(Fixed(), ("save", "share"))
    nothing = StateTensors(*[torch.zeros(2)] * 8)
    batch = PolicyBatch(nothing, torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    losses = objective(batch)
    assert losses.parts.keys() == {"save", "share"}
    assert float(losses.parts["save"]) == (0.25 + 0.0625) / 2
    assert float(losses.parts["share"]) == 0.5
    assert float(losses.total) == 0.15625 + 0.5
    with pytest.raises(ValueError, match=r"^processes is 2; allowed for a policy: 1$"):
        objective(batch, Share(0, 2))


def moments(log: ExplorationLog, times: Sequence[int], explored: Sequence[bool]) -> ExplorationLog:
    rows = log[: len(times)]
    return replace(rows, timestamp_R=np.array(times), explored_R=np.array(explored))


def test_a_log_is_cut_by_the_time_of_its_explored_requests(logged: tuple[ExplorationLog, Int64s]) -> None:
    log = moments(logged[0], [1, 1, 2, 3, 4, 4, 5, 9], [True, False, True, True, True, True, True, False])
    early, late = split_by_time(log, 1 / 3)
    assert early.timestamp_R.tolist() == [1, 1, 2, 3]
    assert late.timestamp_R.tolist() == [4, 4, 5, 9]
    message = r"^evaluation_share is 0\.01 of 6 explored requests, which leaves one part empty; allowed: "
    with pytest.raises(ValueError, match=message):
        split_by_time(log, 0.01)
    with pytest.raises(ValueError, match="of 2 explored requests"):
        split_by_time(moments(logged[0], [7, 7, 8], [True, True, False]), 0.5)
    early, late = split_by_time(logged[0], 0.25)
    assert early.timestamp_R.max() < late.timestamp_R.min()
    assert late.explored_R.sum() / logged[0].explored_R.sum() == pytest.approx(0.25, abs=1e-3)


def test_what_cannot_be_learned_from_is_refused(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s], learned: Path
) -> None:
    log, config = logged[0], small_config(dataset)
    with pytest.raises(ValueError, match=r"^log by-hand has 1 explored requests; allowed: 2 or more$"):
        PolicyExamples(dataset, log[np.flatnonzero(log.explored_R)[:1]], config, 0)
    other = ARMS.model_copy(update={"production": (1.0, 2.0, 4.0)})
    strange = replace(log, info=log.info.model_copy(update={"arms": other}))
    with pytest.raises(ValueError, match=r"^log by-hand has other arms than the policy; allowed: the same$"):
        PolicyExamples(dataset, strange, config, 0)
    with pytest.raises(CheckpointMismatchError, match="by-hand has other arms than"):
        score_log(learned, dataset, strange)
    elsewhere = replace(dataset, info=dataset.info.model_copy(update={"sha256": {"events.parquet": "0"}}))
    with pytest.raises(CheckpointMismatchError, match="was trained with another dataset than explored;"):
        score_log(learned, elsewhere, log)
    actions = dataset.info.model_copy(update={"actions": ("click", "share", "save")})
    message = r"^log by-hand has actions click, save, share; allowed: click, share, save, those of explored$"
    with pytest.raises(ValueError, match=message):
        PolicyExamples(replace(dataset, info=actions), log, config, 0)


def test_items_that_were_unknown_in_training_are_cold(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s]
) -> None:
    last = BEGIN + 7 * DAY
    early = logged[0][logged[0].timestamp_R <= last]
    counts_V = PolicyExamples(dataset, early, small_config(dataset), 0).item_counts()
    before_E = dataset.timestamp_E < early.timestamp_R.max()
    assert counts_V.sum() == before_E.sum() < len(before_E)


def test_ids_are_learned_of_those_items_alone_of_which_nothing_else_is_known(
    dataset: InteractionDataset, logged: tuple[ExplorationLog, Int64s]
) -> None:
    content_VF = np.ones((len(dataset.item_ids_V), 3), np.float32)
    content_VF[0] = 0.0
    attributes_VX = np.full((len(content_VF), 1), -1)
    described = replace(dataset, content_VF=content_VF, attributes_VX=attributes_VX)
    config = small_config(described).model_copy(update={"content_dim": 3, "max_attributes": 0})
    examples = PolicyExamples(described, logged[0], config, 0)
    assert examples.item_counts()[0] > 0
    model = ValueNetwork(config)
    PolicyObjective.of(model, TRAINING, examples)
    assert model.embedder.cold_V.tolist() == [False] + [True] * (len(content_VF) - 1)
