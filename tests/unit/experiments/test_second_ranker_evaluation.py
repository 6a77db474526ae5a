"""Second rankers in a small comparison, from data to report, and what their questions count."""

from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.end_to_end import BEST, CANDIDATES, ONE, RETRIEVED, UTILITY, EndToEnd
from experiments.recipes import ABLATIONS, RECIPES, Recipe, SecondRanker
from experiments.report import EvaluationReport
from experiments.runner import Runner
from experiments.tables import write_tables
from experiments.variants import TRANSACT, TRANSACT_ALONE, TRANSACT_V2, TRANSACT_V2_ABLATIONS, UNIFIED
from unipinrec.arrays import Int64s
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.config import JointTraining
from unipinrec.models.unified.config import UnifiedConfig, preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.offline import OfflineRecommender
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth

FULL, FULL_V2 = "recommend_full: transact", "recommend_full: transact-v2"
REALTIME = TRANSACT_V2_ABLATIONS[0]
RECIPE = Recipe(
    dataset="lifelong",
    protocol="future_feedviews",
    sizes={
        "layers": 1, "width": 16, "heads": 2, "max_history": 16, "window_block": 4, "max_candidates": 64,
        "item_dim": 8, "id_dim": 8, "head_hidden": 4,
    },
    training=JointTraining(epochs=1, batch_size=16),
    second=SecondRanker(
        model={"cross_dim": 8, "feedforward": 8, "head_hidden": 8},
        training={"epochs": 1, "batch_size": 16},
        slates={"feedviews_per_user": 2},
    ),
    variants=(UNIFIED, TRANSACT, TRANSACT_V2, REALTIME),
    synthetic=True,
    feedviews_per_user=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    prepare_simulation(path, SimulatorConfig(users=40, items=300), lambda _: None)
    return path


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    out = tmp_path_factory.mktemp("out")
    dataset, truth = InteractionDataset.load(folder), Truth.load(folder)
    return Runner(RECIPE, dataset, out, lambda _: None, truth).run(workers=1)


@pytest.mark.timeout(300)
def test_second_rankers_stand_beside_the_first_one(report: EvaluationReport) -> None:
    rows = {row.model: row for row in report.rows}
    assert {"unipinrec", "transact", "transact-v2", REALTIME.name, "rates", "truth"} <= rows.keys()
    for name in ("transact", "transact-v2"):
        assert {"auc click", "gauc click", "hit@3 click"} <= rows[name].metrics.keys()
        assert "recall@10" not in rows[name].metrics
    assert rows["transact"].settings == {"events": 100}
    assert rows[REALTIME.name].settings == {"events": 100}
    assert rows["transact-v2"].settings == {"events": 16_000}


def test_a_page_shows_both_questions_as_synthetic(report: EvaluationReport, tmp_path: Path) -> None:
    write_tables([report], tmp_path / "results.md", tmp_path / "results")
    page = (tmp_path / "results.md").read_text()
    assert "## Simulator, lifelong interests (synthetic data)" in page
    assert "| transact-v2 - transact | auc click |" in page
    assert f"| {FULL} - {ONE} | {UTILITY} |" in page


def test_second_rankers_are_paired_with_what_they_must_beat(report: EvaluationReport) -> None:
    section = next(one for one in report.sections if one.title == "Rankers")
    rivals = {
        a: {one.b for one in section.differences if one.a == a} for a in {d.a for d in section.differences}
    }
    assert rivals == {
        "unipinrec": {"rates", "current_rates"},
        "transact": {"unipinrec", "rates", "current_rates"},
        "transact-v2": {"unipinrec", "rates", "current_rates", "transact"},
        REALTIME.name: {"transact-v2"},
    }
    rows = {row.model: row for row in (*report.rows, *section.rows)}
    main = {row.model: row for row in report.rows}
    for one in section.differences:
        assert one.estimate.low <= one.estimate.mean <= one.estimate.high
        if one.metric.startswith("auc") and "events" not in one.metric:
            gap = main[one.a].metrics[one.metric].mean - main[one.b].metrics[one.metric].mean
            assert one.estimate.mean == pytest.approx(gap, abs=1e-9)
        if "events" in one.metric:
            gap = rows[one.a].metrics[one.metric].mean - rows[one.b].metrics[one.metric].mean
            assert one.estimate.mean == pytest.approx(gap, abs=1e-9)


def test_both_ways_end_to_end_are_judged_on_the_same_candidates(report: EvaluationReport) -> None:
    section = next(one for one in report.sections if one.title == "Two rankers, end to end")
    utility = {row.model: row.metrics[UTILITY].mean for row in section.rows}
    assert utility.keys() == {RETRIEVED, ONE, FULL, FULL_V2, f"{FULL}-v2-realtime", BEST}
    assert all(value <= utility[BEST] for value in utility.values())
    one = next(d for d in section.differences if (d.a, d.metric) == (FULL, UTILITY))
    assert one.b == ONE
    assert one.estimate.mean == pytest.approx(utility[FULL] - utility[ONE], abs=1e-6)


class Fixed:
    """Ranks by numbers that the test knows."""

    def __init__(self, score_VA: torch.Tensor) -> None:
        self._score_VA = score_VA

    def action_probabilities(self, requests: Sized, candidates: Sequence[Int64s]) -> list[torch.Tensor]:
        assert len(requests) == len(candidates)
        return [self._score_VA[torch.from_numpy(row_K)] for row_K in candidates]


def test_what_is_shown_are_the_ten_of_most_utility_of_those_retrieved(folder: Path) -> None:
    dataset, truth = InteractionDataset.load(folder), Truth.load(folder)
    cut = int(np.quantile(dataset.feedviews.timestamp_F, 0.8))
    views = FutureFeedviews.of(dataset, split_at_time(dataset, cut), most_per_user=1)
    torch.manual_seed(0)
    fields = preset("tiny", num_items=300, num_actions=4, num_surfaces=3).model_dump() | {
        "max_candidates": 64
    }
    first = OfflineRecommender(UnifiedRecommender(UnifiedConfig.model_validate(fields)).eval())
    score_VA = torch.rand(300, 4)
    run = EndToEnd(views, truth, [TRANSACT]).answers({UNIFIED.name: first, "transact": Fixed(score_VA)})
    utility_V = score_VA.numpy() @ np.array([1.0, 2.0, 0.0, 2.0])
    for place, request in enumerate(views.requests()):
        query_E = first.query_embeddings([request], [4], 1, 4)[0, 0, 0, 0]
        order = (first.item_vector_VE @ query_E).argsort(descending=True).tolist()
        seen = set(request.history.item_row_N.tolist())
        found = [row for row in order if row not in seen][:CANDIDATES]
        probability_VA = truth.action_probabilities(views.feedview_F[place : place + 1])[0]
        for way, shown in (
            (RETRIEVED, found[:10]),
            (FULL, sorted(found, key=lambda row: -utility_V[row])[:10]),
        ):
            expected = probability_VA[shown].sum(axis=0)
            assert run[way].metrics["true save"].value_X[place] == pytest.approx(expected[1], abs=1e-5)
            weighed = expected @ np.array([1.0, 2.0, 0.0, 2.0])
            assert run[way].metrics[UTILITY].value_X[place] == pytest.approx(weighed, abs=1e-4)


def test_ablations_differ_from_their_base_and_have_it_beside_them() -> None:
    for name, recipe in ABLATIONS.items():
        assert recipe.dataset == name
        for variant in recipe.variants:
            if variant.ablates:
                assert variant.ablates in recipe.variants
                base = variant.ablates
                assert variant.model or variant.training or variant.vectors != base.vectors
                same = replace(variant, name=base.name, what=base.what, vectors=base.vectors)
                assert replace(same, model={}, training={}, ablates=None) == base
    assert TRANSACT in RECIPES["simulator"].variants
    assert TRANSACT_ALONE in RECIPES["kuairand"].variants
    assert TRANSACT_V2 in RECIPES["lifelong"].variants
