"""What rivals are given of a small simulation, and what is made of the scores that they give back."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.rivals.budget import Budget
from experiments.rivals.examples import Examples
from experiments.rivals.study import RivalStudy
from experiments.rivals.tables import BUDGET, FINAL, PADDING, SEARCH, SELDOM, read_scores
from unipinrec.arrays import AnyFloats
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.simulation import prepare_simulation

ACTION = "save"
CHOSEN = 2
"""Place of a setting."""
HALF_LIVES_S = (900, 86_400)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    folder = tmp_path_factory.mktemp("simulated") / "data"
    prepare_simulation(folder, SimulatorConfig(users=60, items=300), lambda _: None)
    return InteractionDataset.load(folder)


@pytest.fixture
def study(dataset: InteractionDataset, tmp_path: Path) -> RivalStudy:
    one = RivalStudy.of(dataset, tmp_path / "rivals")
    budget = Budget(actions=(ACTION,), rivals=("DIN", "SIM"), seeds=(3, 4))
    return replace(one, budget=budget, interpreter=Path(sys.executable))


def write_scores(study: RivalStudy, rival: str, score_KC: AnyFloats) -> None:
    """Write what a rival's process would."""
    setting = list(study.budget.settings())[CHOSEN].model_dump()
    told = {
        "trials": [{"setting": setting, "validation_auc": [0.6, 0.7, 0.65], "seconds": 1.0}],
        "setting": setting,
        "epochs": 2,
        "parameters": 9,
        "seconds": [1.0] * len(score_KC),
    }
    study.folder.mkdir(exist_ok=True)
    np.savez(study.folder / f"{rival}-{ACTION}.npz", score_KC=score_KC)
    (study.folder / f"{rival}-{ACTION}.json").write_text(json.dumps(told))


def test_scores_are_measured_in_the_order_of_the_examples(study: RivalStudy) -> None:
    study.write()
    final, search = np.load(study.folder / FINAL), np.load(study.folder / SEARCH)
    views = FutureFeedviews.of(
        study.dataset, split_at_time(study.dataset, study.test_begin), study.feedviews_per_user
    )
    np.testing.assert_array_equal(final["judged/item_C"], np.concatenate(views.items()))
    label_C = views.labels[:, study.dataset.info.actions.index(ACTION)]
    draw = np.random.default_rng(0)
    noisy_KC = label_C + draw.normal(size=(2, len(label_C)))
    for rival in study.budget.rivals:
        write_scores(study, rival, noisy_KC)
    report = study.run(pytest.fail)
    rows = {row.model: row for row in report.rows}
    assert rows.keys() == {"DIN", "SIM", "rates"}
    expected = [roc_auc_score(label_C, score_C.astype(np.float32)) for score_C in noisy_KC]
    assert rows["DIN"].by_seed[f"auc {ACTION}"] == pytest.approx(expected)
    assert rows["DIN"].metrics[f"auc {ACTION}"].mean == pytest.approx(np.mean(expected))
    chosen = list(study.budget.settings())[CHOSEN]
    assert [choice.trained.setting for choice in report.choices] == [chosen] * 2
    assert report.synthetic
    told = json.loads((study.folder / BUDGET).read_text())
    assert told["settings"] == [setting.model_dump() for setting in study.budget.settings()]
    assert "judged/label_CA" in search
    # What is measured stays here.
    assert "judged/label_CA" not in final


def test_what_comes_later_changes_nothing_that_a_rival_learns_from(study: RivalStudy) -> None:
    dataset, begin = study.dataset, study.test_begin
    views = dataset.feedviews
    time_S = np.repeat(views.timestamp_F, np.diff(views.shown_offset_F1))
    actions_S = np.where(time_S >= begin, 0, views.actions_S)
    other = replace(dataset, feedviews=replace(views, actions_S=actions_S))
    (fitted, judged), (fitted_other, judged_other) = (
        Examples.before(FutureFeedviews.of(one, split_at_time(one, begin), 3), begin, HALF_LIVES_S)
        for one in (dataset, other)
    )
    assert judged.label_CA.any()
    assert not judged_other.label_CA.any()
    for name, array in fitted.arrays(labels=True).items():
        np.testing.assert_array_equal(array, fitted_other.arrays(labels=True)[name])
    actions = len(dataset.info.actions)
    of_items = slice(actions + 8, 3 * actions + 10)
    np.testing.assert_array_equal(judged.number_CX[:, of_items], judged_other.number_CX[:, of_items])


def test_every_training_row_is_an_example_and_none_knows_its_own_labels(study: RivalStudy) -> None:
    dataset, begin = study.dataset, study.test_begin
    fitted, _ = Examples.before(
        FutureFeedviews.of(dataset, split_at_time(dataset, begin), 3), begin, HALF_LIVES_S
    )
    views = dataset.feedviews
    time_S = np.repeat(views.timestamp_F, np.diff(views.shown_offset_F1))
    assert len(fitted.item_C) == (time_S < begin).sum()
    # The first time that an item is shown, nothing is known of it.
    first_C = np.sort(np.unique(fitted.item_C, return_index=True)[1])
    shown_before_CX = fitted.number_CX[:, 2 * len(dataset.info.actions) + 8]
    assert (fitted.event_actions_N != 0).all()
    assert (shown_before_CX == 0).sum() >= len(first_C)


def test_recent_actions_and_impressions_count_half_after_each_half_life(study: RivalStudy) -> None:
    dataset, begin = study.dataset, study.test_begin
    views = FutureFeedviews.of(dataset, split_at_time(dataset, begin), 3)
    _, judged = Examples.before(views, begin, HALF_LIVES_S)
    actions = len(dataset.info.actions)
    found_RX = judged.number_CX[views.offsets[:-1], 3 * actions + 10 :]
    kinds = [*(1 << np.arange(actions)), 0]
    for request, found_X in zip(views.requests()[:50], found_RX, strict=False):
        history, impressions = request.history[-100:], request.impressions
        assert impressions is not None
        expected = []
        for kind in kinds:
            rows = history if kind else impressions
            happened_N = (rows.actions_N & kind) == kind
            for half_life in HALF_LIVES_S:
                age_N = (request.request_time - rows.timestamp_N) / half_life
                expected.append(np.log1p((happened_N * 2.0**-age_N).sum()))
        np.testing.assert_allclose(found_X, expected, rtol=1e-5, atol=1e-6)


def test_items_that_training_seldom_saw_share_an_id(study: RivalStudy) -> None:
    study.write()
    final = np.load(study.folder / FINAL)
    shown_V = np.bincount(final["fitted/item_C"], minlength=len(study.dataset.item_ids_V))
    number_V = final["item_number_V"]
    assert (number_V > PADDING).all()
    np.testing.assert_array_equal(number_V == SELDOM, shown_V < 2)
    own_V = number_V[number_V > SELDOM]
    np.testing.assert_array_equal(np.sort(own_V), np.arange(len(own_V)) + SELDOM + 1)


@pytest.mark.parametrize(
    ("score_KC", "message"),
    [
        (np.zeros((2, 6)), r"^DIN-save has scores of \(2, 6\); allowed: \(2, 5\)$"),
        (np.full((2, 5), np.nan), r"^DIN-save has scores that are not finite; allowed: finite ones$"),
    ],
)
def test_scores_of_other_examples_are_refused(study: RivalStudy, score_KC: AnyFloats, message: str) -> None:
    write_scores(study, "DIN", score_KC)
    with pytest.raises(ValueError, match=message):
        read_scores(study.folder / f"DIN-{ACTION}", seeds=2, candidates=5)


def test_without_the_other_environment_nothing_is_written(study: RivalStudy) -> None:
    absent = replace(study, interpreter=study.folder / "absent")
    with pytest.raises(FileNotFoundError, match="see `make oracles`"):
        absent.run(pytest.fail)
    assert not study.folder.exists()


def test_rivals_are_compared_on_two_datasets_alone(dataset: InteractionDataset, tmp_path: Path) -> None:
    other = replace(dataset, info=dataset.info.model_copy(update={"name": "mind"}))
    with pytest.raises(ValueError, match=r"^dataset is mind; allowed: kuairand, simulator$"):
        RivalStudy.of(other, tmp_path)
