"""A second query embedding is trained as it is served: after the first was fed back."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.slates import load, random_rows
from unipinrec.data.blended import BlendedBatch, BlendedConfig, BlendedDataset, collate
from unipinrec.data.history import History
from unipinrec.models.common.history_objective import Step
from unipinrec.models.common.objective import WHOLE
from unipinrec.models.common.targets import make_targets
from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.config import UnifiedTraining, preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.objective import UnifiedObjective
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

OFFSETS_S = (3, 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[UnifiedObjective, Step]:
    """A model that contrasts targets with all items, and a step without anything random in it."""
    dataset = load(tmp_path_factory.mktemp("slates"), random_rows(7, users=12, feedviews=12))
    examples = BlendedDataset(dataset, BlendedConfig(max_history=16, kept_without_engagement=1.0))
    torch.manual_seed(0)
    model = UnifiedRecommender(preset("tiny", **dataset.catalogue_fields))
    training = UnifiedTraining(
        epochs=1,
        full_softmax=True,
        outcome_probability=0.0,
        second_step_weight=0.5,
        second_step_offsets_s=OFFSETS_S,
    )
    objective = UnifiedObjective.of(model, training, examples).eval()
    return objective, whole_step(objective, collate([examples[index] for index in range(len(examples))]))


def whole_step(objective: UnifiedObjective, batch: BlendedBatch) -> Step:
    part = WHOLE.part(len(batch.user_B))
    vector_BNE = objective._vectors(batch.event_item_BN, part, WHOLE)
    masked_BN = torch.zeros_like(batch.event_item_BN, dtype=torch.bool)
    columns = (batch.event_actions_BN, batch.event_timestamp_BN, batch.event_surface_BN)
    events = Events(vector_BNE, *columns, masked_BN)
    return Step(batch, masked_BN, WHOLE, part, batch, events)


def served(objective: UnifiedObjective, batch: BlendedBatch, row: int, position: int) -> Tensor:
    """Both steps' query embeddings [S, E] of a request after so many events of an example's history."""
    columns = (batch.event_item_BN, batch.event_actions_BN, batch.event_timestamp_BN, batch.event_surface_BN)
    item, actions, time, surface = (column[row, :position].numpy() for column in columns)
    request = OfflineRequest(
        history=History(item_row_N=item, actions_N=actions, timestamp_N=time, surface_N=surface),
        request_time=int(batch.target_timestamp_BT[row, position]),
        surface=int(batch.target_surface_BT[row, position]),
    )
    outcome = objective.model.config.num_actions
    recommender = OfflineRecommender(objective.model)
    return recommender.query_embeddings([request], [outcome], 2, outcome)[0, :, 0, 0]


def test_the_second_step_reads_what_a_server_feeds_back(made: tuple[UnifiedObjective, Step]) -> None:
    objective, step = made
    with torch.no_grad():
        hidden_BTC = objective._fed_back(objective.model.read(step.events), step)
    batch, outcome = step.batch, torch.tensor(objective.model.config.num_actions)
    assert batch.length_B.max() == 16
    for row in range(3):
        length = int(batch.length_B[row])
        for position in {0, min(1, length), length // 2, length}:
            time, surface = (
                column[row, position] for column in (batch.target_timestamp_BT, batch.target_surface_BT)
            )
            head = objective.model.retrieval_head
            found_E = head(hidden_BTC[row, position], time, surface, outcome, torch.tensor(0))
            expected_E = served(objective, batch, row, position)[1]
            torch.testing.assert_close(found_E, expected_E, atol=1e-5, rtol=1e-5)


def test_its_loss_is_that_of_both_steps_together(made: tuple[UnifiedObjective, Step]) -> None:
    objective, step = made
    with torch.no_grad():
        losses = objective._losses(objective.model.read(step.events), step)
    batch, config = step.batch, objective.config
    targets = make_targets(batch, objective.positive_mask, (0, *OFFSETS_S), config)
    assert {0, 1, 2} == set(targets.offset_P.tolist())
    scale, places = objective.softmax.log_scale.exp(), batch.target_item_BT.size(1)
    vector_VE = objective.model.embedder.all_vectors()
    expected = []
    for place, item in zip(targets.position_P.tolist(), targets.item_PR[:, 0].tolist(), strict=True):
        query_SE = served(objective, batch, place // places, place % places)
        chance_SV = torch.softmax(scale.detach() * query_SE @ vector_VE.detach().T, dim=1)
        expected.append(-np.log(float(chance_SV[:, item].mean())))
    assert losses.parts["second_step"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    others = losses.parts["retrieval"] + losses.parts["history_actions"] + losses.parts["candidate_actions"]
    assert losses.total.item() == pytest.approx((others + 0.5 * losses.parts["second_step"]).item(), rel=1e-5)


def test_the_first_step_learns_nothing_from_it(made: tuple[UnifiedObjective, Step]) -> None:
    """What the first embedding finds is told to the second, and not improved by it."""
    objective, step = made
    reading = objective.model.read(step.events)
    hidden_BTC = reading.hidden_BTC.detach().requires_grad_()
    objective._second_step(reading._replace(hidden_BTC=hidden_BTC), step).backward()
    assert hidden_BTC.grad is None
    assert objective.model.retrieval_head.project.straight.weight.grad is not None
    objective.zero_grad()
