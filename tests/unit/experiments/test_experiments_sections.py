"""What outcomes and several query embeddings retrieve, against plain loops over small simulated data."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.conditioning import ANY, OutcomeConditioning
from experiments.multi_token import LATER, NEXT, OFFSETS, MultiToken
from experiments.variants import MULTI_TOKEN, TWO_STEPS, UNIFIED
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.unified.config import UnifiedConfig, preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.offline import OfflineRecommender
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    prepare_simulation(path, SimulatorConfig(users=40, items=300), lambda _: None)
    return path


@pytest.fixture(scope="module")
def views(folder: Path) -> FutureFeedviews:
    dataset = InteractionDataset.load(folder)
    cut = int(np.quantile(dataset.feedviews.timestamp_F, 0.8))
    return FutureFeedviews.of(dataset, split_at_time(dataset, cut), most_per_user=2)


def model(**changes: object) -> UnifiedRecommender:
    torch.manual_seed(0)
    fields = preset("tiny", num_items=300, num_actions=4, num_surfaces=3).model_dump() | changes
    return UnifiedRecommender(UnifiedConfig.model_validate(fields)).eval()


def test_a_true_share_is_the_mean_probability_of_what_was_found_when_asked(
    views: FutureFeedviews, folder: Path
) -> None:
    truth = Truth.load(folder)
    asked = model()
    with torch.no_grad():
        asked.retrieval_head.outcome.weight.mul_(100)
    run = OutcomeConditioning(views, truth).answers({UNIFIED.name: OfflineRecommender(asked)})
    assert list(run) == [ANY, "click", "save", "share"]
    recommender, vector_VE = OfflineRecommender(asked), asked.embedder.all_vectors()
    for way, outcome in ((ANY, 4), ("save", 1)):
        shares, hits = [], []
        for place, request in enumerate(views.requests()):
            query_E = recommender.query_embeddings([request], [outcome], 1, outcome)[0, 0, 0, 0]
            seen = set(request.history.item_row_N.tolist())
            order = (vector_VE @ query_E).argsort(descending=True).tolist()
            found = [row for row in order if row not in seen][:10]
            probability_VA = truth.action_probabilities(views.feedview_F[place : place + 1])[0]
            shares.append(probability_VA[found, 1].mean())
            shown = views.dataset.feedviews.view(int(views.feedview_F[place]))
            shared = [
                row
                for row, actions in zip(shown.item_row_K.tolist(), shown.actions_K.tolist(), strict=True)
                if actions & 0b1000 and row not in seen
            ]
            if shared:
                hits.append(shared[0] in found)
        assert run[way].metrics["true share of save"].value_X == pytest.approx(shares, abs=1e-6)
        assert run[way].metrics["recall@10 of share"].value_X.tolist() == hits


def test_a_comparison_of_outcomes_is_with_none_and_with_every_other(
    views: FutureFeedviews, folder: Path
) -> None:
    conditioning = OutcomeConditioning(views, Truth.load(folder))
    section = conditioning.section([conditioning.answers({UNIFIED.name: OfflineRecommender(model())})])
    compared = {(one.a, one.b, one.metric) for one in section.differences}
    assert ("save", ANY, "true share of save") in compared
    assert ("save", "share", "recall@10 of save") in compared
    assert len(compared) == 3 + 3 * 3


def test_every_way_of_asking_has_as_many_candidates(views: FutureFeedviews) -> None:
    one, several = model(), model(**MULTI_TOKEN.model)
    asked = MultiToken(views)
    models = {UNIFIED.name: one, TWO_STEPS.name: one, MULTI_TOKEN.name: several}
    run = asked.answers({name: OfflineRecommender(made) for name, made in models.items()})
    assert run.keys() == asked.ways.keys()
    vector_VE = several.embedder.all_vectors()
    recommender = OfflineRecommender(several)
    found_by_offsets = []
    for request in views.requests():
        query_OE = recommender.query_embeddings([request], [4], 1, 4)[0, 0, 0]
        taken = request.history.item_row_N.tolist()
        found: list[int] = []
        for query_E in query_OE:
            order = (vector_VE @ query_E).argsort(descending=True).tolist()
            found += [row for row in order if row not in taken and row not in found][:20]
        found_by_offsets.append(found)
    later = views.later_targets(7 * 86_400)
    shares = [
        np.isin(rows, found).mean() for rows, found in zip(later, found_by_offsets, strict=True) if len(rows)
    ]
    assert run[OFFSETS].metrics[LATER].value_X == pytest.approx(shares)
    assert run[OFFSETS].totals["coverage"] == len(set(chain.from_iterable(found_by_offsets))) / 300
    assert len({len(answers.metrics[NEXT].value_X) for answers in run.values()}) == 1


def test_later_targets_are_the_new_items_of_positive_events_within_the_horizon(
    views: FutureFeedviews,
) -> None:
    for feedview, user, found in zip(
        views.feedview_F, views.user_F, views.later_targets(86_400), strict=True
    ):
        shown = views.dataset.feedviews.view(int(feedview))
        history = views.dataset.history(int(user))
        expected = set()
        for place in range(shown.start, len(history)):
            soon = history.timestamp_N[place] <= shown.timestamp + 86_400
            if soon and history.actions_N[place] & 0b1011:
                expected.add(int(history.item_row_N[place]))
        assert set(found.tolist()) == expected - set(history.item_row_N[: shown.start].tolist())
