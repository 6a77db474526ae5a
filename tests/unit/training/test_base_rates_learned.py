"""What a model's ranking starts from, out of the training part alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.slates import load, random_rows
from unipinrec.data.blended import BlendedConfig, BlendedDataset, collate
from unipinrec.data.interactions import split_at_time
from unipinrec.models.common.history_objective import JointObjective
from unipinrec.models.config import JointTraining
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.module import UnifiedRecommender

SPLIT_S = 118


def objective(folder: Path, **info: bool) -> tuple[JointObjective, BlendedDataset]:
    dataset = load(folder, random_rows(7, users=12, feedviews=12), **info)
    config = preset("tiny", **dataset.catalogue_fields)
    blended = BlendedConfig(max_history=16, kept_without_engagement=1.0)
    examples = BlendedDataset(dataset, blended, split_at_time(dataset, SPLIT_S))
    torch.manual_seed(0)
    model = UnifiedRecommender(config)
    return JointObjective.of(model, JointTraining(epochs=1), examples), examples


def test_a_model_knows_how_often_items_were_acted_on_before_the_test_time(tmp_path: Path) -> None:
    made, examples = objective(tmp_path)
    slates, head = examples.slates, made.model.ranking_head
    clicked_S = slates.actions_S & 1 != 0
    assert torch.sigmoid(head.bias[0]).item() == pytest.approx(clicked_S.mean(), abs=0.02)
    shown_V, clicked_V = (np.bincount(slates.item_row_S, weight, 12) for weight in (None, clicked_S))
    rate_V = clicked_V / shown_V
    often, seldom = int(rate_V.argmax()), int(rate_V.argmin())
    assert head.item_rate_VA[often, 0] > head.item_rate_VA[seldom, 0]
    later = examples.interactions.feedviews.timestamp_F >= SPLIT_S
    assert later.any()
    assert (np.diff(slates.offset_F1)[later] == 0).all()


def test_no_label_is_in_its_own_rate(tmp_path: Path) -> None:
    """The rates of a batch are what its feedviews' items had before them."""
    made, examples = objective(tmp_path)
    batch = collate([examples[index] for index in range(len(examples))])
    time_BK = batch.feedview_timestamp_BF.gather(1, batch.candidate_feedview_BK)
    rate_BKA = made._rates(batch.candidate_item_BK, time_BK)
    assert made.rates is not None
    views, slates = examples.interactions.feedviews, examples.slates
    shown_at_S = np.repeat(views.timestamp_F, np.diff(slates.offset_F1))
    first = int(np.argmin(shown_at_S))
    begin = torch.full((1, 1), int(shown_at_S[first]))
    assert made._rates(torch.tensor([[int(slates.item_row_S[first])]]), begin).abs().max() < 1e-6
    assert rate_BKA.shape == (*batch.candidate_item_BK.shape, 3)
    assert rate_BKA.abs().max() > 0


def test_without_impressions_every_item_is_equal(tmp_path: Path) -> None:
    made, _ = objective(tmp_path, sampled_impressions=True)
    assert made.model.ranking_head.item_rate_VA.abs().max() < 1e-4
