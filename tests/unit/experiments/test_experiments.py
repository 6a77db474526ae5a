"""A small comparison from data to report, and what its parts count."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from experiments.held_out import HeldOut
from experiments.recipes import RECIPES, TUNING, Recipe
from experiments.runner import Runner, forward_flops
from experiments.variants import DAY_S, INTERLEAVED, MULTI_TOKEN, RETRIEVAL_ONLY, SASREC, TWO_STEPS, UNIFIED
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.baselines.interleaved import InterleavedRecommender
from unipinrec.models.baselines.sasrec import SASRec
from unipinrec.models.common.offline import OfflineRetriever
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import CatalogueConfig, JointConfig, JointTraining, ModelConfig, sized
from unipinrec.models.unified.config import UnifiedConfig
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth

SIZES = {
    "layers": 1, "width": 16, "heads": 2, "max_history": 16, "window_block": 4, "max_candidates": 32,
    "item_dim": 8, "id_dim": 8, "head_hidden": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    prepare_simulation(path, SimulatorConfig(users=60, items=300), lambda _: None)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> InteractionDataset:
    return InteractionDataset.load(folder)


def recipe(protocol: str) -> Recipe:
    return Recipe(
        dataset="simulator",
        protocol="leave_one_out" if protocol == "leave_one_out" else "future_feedviews",
        sizes=SIZES,
        training=JointTraining(epochs=2, batch_size=16),
        variants=(UNIFIED, SASREC)
        if protocol == "leave_one_out"
        else (UNIFIED, RETRIEVAL_ONLY, INTERLEAVED, MULTI_TOKEN, TWO_STEPS),
        seeds=(0, 1) if protocol == "leave_one_out" else (0,),
        synthetic=True,
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("protocol", ["leave_one_out", "future_feedviews"])
def test_a_run_measures_every_model_and_a_second_one_trains_nothing(
    dataset: InteractionDataset, folder: Path, tmp_path: Path, protocol: str
) -> None:
    truth = Truth.load(folder)
    report = Runner(recipe(protocol), dataset, tmp_path, lambda _: None, truth).run(workers=2)
    rows = {row.model: row for row in report.rows}
    counting = (
        {"markov", "popularity"} if protocol == "leave_one_out" else {"rates", "current_rates", "truth"}
    )
    assert rows.keys() == {variant.name for variant in recipe(protocol).variants} | counting
    for row in rows.values():
        for name, values in row.by_seed.items():
            assert len(values) == len(recipe(protocol).seeds)
            assert row.metrics[name].mean == pytest.approx(np.mean(values), abs=1e-9)
        for estimate in row.metrics.values():
            assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert [epoch for epoch, _ in rows["unipinrec"].losses["total"]] == [1, 2]
    if protocol == "future_feedviews":
        assert {"hit@3 click", "auc click", "gauc click", "recall@10"} <= rows["unipinrec"].metrics.keys()
        assert "hit@3 click" not in rows["retrieval_only"].metrics
        for metric, estimate in rows["rates"].metrics.items():
            assert rows["truth"].metrics[metric].mean >= estimate.mean or not metric.startswith("hit@3")
        assert [section.title for section in report.sections] == [
            "Outcome conditioning",
            "Several query embeddings",
            "Rankers",
        ]
    else:
        (section,) = report.sections
        served, retrieved = (row.metrics for row in section.rows)
        assert retrieved["recall@10"] == rows["unipinrec"].metrics["recall@10"]
        (ndcg, _) = section.differences
        assert ndcg.estimate.mean == pytest.approx(
            served["ndcg@10"].mean - retrieved["ndcg@10"].mean, abs=1e-9
        )
    for one in report.differences:
        gap = rows[one.a].metrics[one.metric].mean - rows[one.b].metrics[one.metric].mean
        assert one.estimate.mean == pytest.approx(gap, abs=1e-9)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert len(trained) == len(recipe(protocol).seeds) * len(recipe(protocol).variants)
    again = Runner(recipe(protocol), dataset, tmp_path, lambda _: None, truth).run(workers=1)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert (again.rows, again.sections) == (report.rows, report.sections)
    assert report.minutes is not None
    assert again.minutes is None


def test_future_feedviews_are_the_first_after_the_cut_with_all_that_came_before(
    dataset: InteractionDataset,
) -> None:
    cut = int(np.quantile(dataset.feedviews.timestamp_F, 0.7))
    views = FutureFeedviews.of(dataset, split_at_time(dataset, cut), most_per_user=2)
    assert np.bincount(views.user_F).max() == 2
    for feedview, user, request in zip(views.feedview_F, views.user_F, views.requests(), strict=True):
        shown = dataset.feedviews.view(int(feedview))
        assert shown.timestamp >= cut
        begin, end = dataset.feedviews.offset_U1[user : user + 2]
        later = [f for f in range(begin, end) if dataset.feedviews.timestamp_F[f] >= cut]
        assert int(feedview) in later[:2]
        history = dataset.history(int(user))
        assert len(request.history) == int((history.timestamp_N < shown.timestamp).sum())
    label_SA, offset_F1 = views.labels, views.offsets
    assert len(label_SA) == offset_F1[-1] == sum(len(row_K) for row_K in views.items())
    for feedview, target, request in zip(views.feedview_F, views.targets(), views.requests(), strict=True):
        shown = dataset.feedviews.view(int(feedview))
        positive = [
            int(row)
            for row, actions in zip(shown.item_row_K, shown.actions_K, strict=True)
            if actions & 0b1011 and row not in request.history.item_row_N
        ]
        assert target == (positive[0] if positive else -1)


def test_a_recipes_test_time_is_held_out_and_measured_up_to_its_end(dataset: InteractionDataset) -> None:
    time_F = dataset.feedviews.timestamp_F
    begin, end = (int(np.quantile(time_F, part)) for part in (0.5, 0.8))
    given = replace(recipe("future_feedviews"), test_begin=begin)
    before = replace(given, validation_begin=begin, test_begin=end, validates=True)
    half = replace(given, test_begin=None, test_share=0.5)
    whole, part, by_share = (HeldOut(one, dataset) for one in (given, before, half))
    for held_out in (whole, part, by_share):
        assert (held_out.split.test_begin_U == begin).all()
    np.testing.assert_array_equal(whole.views.feedview_F, by_share.views.feedview_F)
    early_F = time_F[whole.views.feedview_F] < end
    assert 0 < np.count_nonzero(early_F) < len(early_F)
    np.testing.assert_array_equal(part.views.feedview_F, whole.views.feedview_F[early_F])


@pytest.mark.parametrize("name", ["kuairand", "ebnerd"])
def test_settings_are_compared_before_the_test_time_alone(dataset: InteractionDataset, name: str) -> None:
    begin, end = TUNING[name].test_time(dataset)
    test, forever = RECIPES[name].test_time(dataset)
    assert begin < end == test < forever
    if name == "kuairand":
        assert end - begin == 2 * DAY_S
    else:
        time_F = dataset.feedviews.timestamp_F
        assert np.mean(time_F < begin) == pytest.approx(0.64, abs=0.01)


C = TypeVar("C", bound=CatalogueConfig)


def config(kind: type[C], **changes: object) -> C:
    return sized(kind, "tiny", {"num_items": 40, "num_actions": 3, "max_history": 64, **changes})


def test_interleaving_costs_at_least_1_6_times_a_unified_forward() -> None:
    unified = forward_flops(UnifiedRecommender(config(UnifiedConfig)))
    assert forward_flops(InterleavedRecommender(config(JointConfig))) >= 1.6 * unified


def test_an_interleaved_action_changes_what_follows_and_not_its_own_prediction() -> None:
    torch.manual_seed(1)
    model = InterleavedRecommender(config(JointConfig)).eval()
    vector = model.embedder(torch.arange(6).unsqueeze(0))
    actions, time = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.arange(6).unsqueeze(0)
    other = actions.clone()
    other[0, 3] = 1
    nothing = torch.zeros_like(actions)
    with torch.no_grad():
        one, two = (
            model.read(Events(vector, given, time, nothing, nothing > 0)) for given in (actions, other)
        )
    assert torch.equal(one.action_hidden_BNC[:, :4], two.action_hidden_BNC[:, :4])
    assert (one.action_hidden_BNC[:, 4:] - two.action_hidden_BNC[:, 4:]).abs().amax(-1).min() > 1e-4
    assert torch.equal(one.hidden_BTC[:, :4], two.hidden_BTC[:, :4])
    assert (one.hidden_BTC[:, 4:] - two.hidden_BTC[:, 4:]).abs().amax(-1).min() > 1e-4


def test_sasrec_sees_item_ids_in_their_order_alone() -> None:
    torch.manual_seed(1)
    model = SASRec(config(ModelConfig, num_attributes=3, max_attributes=2, content_dim=2)).eval()
    vector = model.embedder(torch.tensor([[3, 9, 4]]))
    number = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        one, _ = model.encode(Events(vector, number, number * 1000, number * 0, number < 0))
        two, _ = model.encode(Events(vector, number.flip(1), number * 77, number * 0, number < 0))
        swapped, _ = model.encode(Events(vector[:, [1, 0, 2]], number, number, number * 0, number < 0))
    assert torch.equal(one, two)
    assert (one - swapped)[:, 1:].abs().max() > 1e-4


def test_sasrec_has_nothing_to_rank_with() -> None:
    model = SASRec(config(ModelConfig))
    assert not [name for name, _ in model.named_modules() if "rank" in name]
    assert not hasattr(OfflineRetriever(model), "action_probabilities")


def test_every_recipe_has_known_variants_and_refuses_others() -> None:
    for name, one in RECIPES.items():
        assert one.dataset == name
        assert len({variant.name for variant in one.variants}) == len(one.variants)
        assert one.narrowed(["unipinrec"], [5]).seeds == (5,)
    with pytest.raises(ValueError, match=r"^variant is magic; allowed: unipinrec, retrieval_only, sasrec$"):
        RECIPES["movielens"].narrowed(["magic"], None)
