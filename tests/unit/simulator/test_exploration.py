"""A simulated exploration log draws arms as it says, and knows exactly what every arm would have brought.

Shapes: R requests, K arms, C candidates, A actions, M rewards, N repeated draws.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.progress import Progress

from tests.support.simulated import SMALL
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.exploration import ExplorationLog, ExplorationLogError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.simulator import Truth, prepare_simulation
from unipinrec.simulator.choice import ACTIONS, CLICK, SAVE, SHARE, draw_actions
from unipinrec.simulator.exploration import (
    SimulatedExploration,
    at_least_one,
    best,
    expected_of_weights,
    load_expected,
    simulate_exploration,
)
from unipinrec.simulator.exploration_config import ExplorationConfig, RankerConfig
from unipinrec.simulator.ranking import CandidateSource, Ranker

CONFIG = ExplorationConfig(share=0.4, production_share=0.2, candidates=60, top_k=8, seed=2)
FEW = CONFIG.model_copy(update={"share": 0.03, "production_share": 0.03})


@cache
def world(folder: Path) -> tuple[InteractionDataset, Truth]:
    prepare_simulation(folder, SMALL, lambda _: None)
    return InteractionDataset.load(folder), Truth.load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exploration") / "dataset"


def simulated(folder: Path, config: ExplorationConfig = CONFIG) -> SimulatedExploration:
    with Progress(disable=True) as progress:
        return simulate_exploration(*world(folder), config, progress)


@pytest.fixture(scope="module")
def exploration(folder: Path) -> SimulatedExploration:
    return simulated(folder)


def test_a_request_is_a_user_at_the_time_of_a_feedview(
    folder: Path, exploration: SimulatedExploration
) -> None:
    interactions, truth = world(folder)
    log, surface_F = exploration.log, truth.explored_F.astype(int)
    users = interactions.user_ids_U[truth.user_F]
    moments = set(zip(users, truth.timestamp_F.tolist(), surface_F.tolist(), strict=True))
    found = list(zip(log.user_id_R, log.timestamp_R.tolist(), log.surface_R.tolist(), strict=True))
    assert set(found) <= moments
    assert len(set(found)) == len(set(log.request_id_R)) == len(log)
    assert np.all(np.diff(log.timestamp_R) >= 0)
    assert log.info.synthetic


def test_shares_of_requests_are_those_asked_for(folder: Path, exploration: SimulatedExploration) -> None:
    log, feedviews = exploration.log, len(world(folder)[1])
    for found, share in ((log.explored_R.sum(), 0.4), ((~log.explored_R).sum(), 0.6 * 0.2)):
        assert abs(found - feedviews * share) < 4 * np.sqrt(feedviews * share * (1 - share))


def test_traffic_multiplies_requests_and_each_has_candidates_of_its_own(folder: Path) -> None:
    config = CONFIG.model_copy(update={"traffic": 20, "share": 0.02, "production_share": 0.0})
    several = simulated(folder, config)
    log, feedviews = several.log, len(world(folder)[1])
    assert log.explored_R.all()
    assert abs(len(log) - 0.4 * feedviews) < 4 * np.sqrt(0.4 * feedviews)
    pair_R = log.user_id_R + log.timestamp_R.astype(str)
    again = np.flatnonzero(pair_R[1:] == pair_R[:-1])
    assert len(again) > 300
    assert not np.any(np.all(several.expected_RKM[again] == several.expected_RKM[again + 1], axis=(1, 2)))


def test_explored_arms_are_uniform_and_others_productions(exploration: SimulatedExploration) -> None:
    log = exploration.log
    arms = len(log.info.arms)
    count_K = np.bincount(log.arm_R[log.explored_R], minlength=arms)
    expected = count_K.sum() / arms
    chi_square = ((count_K - expected) ** 2 / expected).sum()
    # 49 degrees of freedom: quantiles .001 and .999 of the distribution.
    assert 24.0 < chi_square < 85.4
    assert np.all(log.propensity_R[log.explored_R] == 1 / 50)
    assert np.all(log.arm_R[~log.explored_R] == log.info.arms.production_arm)
    assert np.all(log.propensity_R[~log.explored_R] == 1)


def test_the_same_seed_gives_the_same_log_and_another_seed_another(folder: Path) -> None:
    first, again = simulated(folder, FEW), simulated(folder, FEW)
    assert again.log.table().equals(first.log.table())
    assert np.array_equal(again.expected_RKM, first.expected_RKM)
    other = simulated(folder, FEW.model_copy(update={"seed": 3}))
    assert set(other.log.request_id_R) != set(first.log.request_id_R)


def test_drawn_rewards_are_as_frequent_as_expected_for_the_logged_arms(
    exploration: SimulatedExploration,
) -> None:
    log = exploration.log
    chance_RM = exploration.expected_RKM[np.arange(len(log)), log.arm_R]
    for column in range(2):
        for part in np.array_split(np.argsort(chance_RM[:, column]), 8):
            chance, found = chance_RM[part, column], log.reward_RM[part, column]
            assert set(found) <= {0.0, 1.0}
            error = np.sqrt((chance * (1 - chance)).sum())
            assert abs(found.sum() - chance.sum()) < 4 * error


def test_the_expected_reward_of_every_arm_is_the_mean_of_many_draws() -> None:
    random = np.random.default_rng(8)
    conditional_CA = random.uniform(0.05, 0.4, (12, 4)).astype(np.float32)
    head_CA = random.random((12, 4))
    arms = Arms(
        actions=ACTIONS,
        production=(1.0, 1.0, 0.0, 1.0),
        varied=(
            WeightRange(action="save", low=0.0, high=5.0, steps=2),
            WeightRange(action="share", low=0.0, high=5.0, steps=2),
        ),
    )
    save_C = conditional_CA[:, CLICK] * conditional_CA[:, SAVE]
    share_C = conditional_CA[:, CLICK] * conditional_CA[:, SHARE]
    score_KC = arms.weights() @ head_CA.T
    expected_KM = at_least_one(best(score_KC[None], 3), np.stack([save_C, share_C], axis=1)[None])[0]

    draws = 100_000
    action_NC = draw_actions(np.broadcast_to(conditional_CA, (draws, 12, 4)), random)
    for arm in range(len(arms)):
        served = sorted(range(12), key=lambda item: -score_KC[arm, item])[:3]
        for column, action in enumerate((SAVE, SHARE)):
            got_N = (action_NC[:, served] >> action & 1).max(axis=1)
            error = 4 * np.sqrt(0.25 / draws)
            assert expected_KM[arm, column] == pytest.approx(got_N.mean(), abs=error)
    assert len({tuple(row) for row in expected_KM.round(6).tolist()}) > 2


def test_every_arm_serves_what_its_weights_rank_first_and_is_judged_by_the_datasets_truth(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[NDArray[np.generic]]] = {"draw": [], "heads": []}
    for kind, name in ((CandidateSource, "draw"), (Ranker, "heads")):
        monkeypatch.setattr(kind, name, recorded(getattr(kind, name), seen[name]))
    exploration = simulated(folder, FEW)
    item_RC, head_RCA = np.concatenate(seen["draw"]), np.concatenate(seen["heads"])
    truth, arms = world(folder)[1], exploration.log.info.arms
    for request in range(0, len(item_RC), 60):
        feedview = int(exploration.log.request_id_R[request].split("-")[0])
        item_C = item_RC[request].astype(np.int64)
        chance_CA = truth.shown_probabilities(np.full(len(item_C), feedview), item_C)
        for arm in (0, 6, 24, 42, 48, 49):
            weight_A = arms.weights()[arm].tolist()
            score = [
                sum(weight * head for weight, head in zip(weight_A, head_A, strict=True))
                for head_A in head_RCA[request].tolist()
            ]
            served = sorted(range(len(item_C)), key=score.__getitem__)[-FEW.top_k :]
            for column, action in enumerate((SAVE, SHARE)):
                expected = 1 - math.prod(1 - float(chance_CA[item, action]) for item in served)
                assert exploration.expected_RKM[request, arm, column] == pytest.approx(expected, abs=1e-5)


def recorded(call: Callable[..., NDArray[np.generic]], into: list[NDArray[np.generic]]) -> Callable[..., Any]:
    def recording(*arguments: object) -> NDArray[np.generic]:
        into.append(call(*arguments))
        return into[-1]

    return recording


def test_candidates_are_different_shown_items_and_mostly_of_the_users_topics(folder: Path) -> None:
    interactions, truth = world(folder)
    source = CandidateSource(interactions, truth, 60, np.random.default_rng(0))
    feedview_B = np.flatnonzero(~truth.explored_F)[:300]
    item_BC = source.draw(feedview_B)
    assert item_BC.shape == (300, 60)
    assert all(len(set(row)) == 60 for row in item_BC.tolist())
    assert not truth.cold_V[item_BC].any()
    of_session = (truth.topic_V[item_BC] == truth.topic_F[feedview_B][:, None]).mean()
    uniform_BC = source.draw(np.flatnonzero(truth.explored_F)[:300])
    by_chance = (truth.topic_V[uniform_BC] == truth.topic_F[truth.explored_F][:300, None]).mean()
    assert of_session > 0.25
    assert by_chance == pytest.approx(1 / SMALL.topics, abs=0.02)


def test_a_ranker_knows_a_user_as_much_as_it_is_told_to_and_errs_by_its_noise() -> None:
    affinity_BC, item_BCA = np.zeros((1, 5_000), np.float32), np.zeros((1, 5_000, 4), np.float32)
    own_BA = np.ones((1, 4), np.float32)

    def click_logit(config: RankerConfig) -> NDArray[np.float32]:
        ranker = Ranker(config, SMALL.choice, np.random.default_rng(0))
        click_C = ranker.heads(affinity_BC, item_BCA, own_BA)[0, :, CLICK]
        logit_C: NDArray[np.float32] = np.log(click_C / (1 - click_C))
        return logit_C - SMALL.choice.bias[CLICK]

    exact = RankerConfig(user_knowledge=(1.0,) * 4, noise=(0.0,) * 4)
    assert click_logit(exact) == pytest.approx(1.0, abs=1e-3)
    half = click_logit(RankerConfig(user_knowledge=(0.5,) * 4, noise=(0.3,) * 4))
    assert half.mean() == pytest.approx(0.5, abs=0.02)
    assert half.std() == pytest.approx(0.3, abs=0.02)


def test_a_saved_log_has_its_truth_beside_it_and_no_others(
    tmp_path: Path, exploration: SimulatedExploration
) -> None:
    exploration.save(tmp_path / "a")
    loaded = ExplorationLog.load(tmp_path / "a")
    assert loaded.table().equals(exploration.log.table())
    assert np.array_equal(load_expected(tmp_path / "a"), exploration.expected_RKM)
    assert load_expected(tmp_path / "a").shape == (len(loaded), 50, 2)

    exploration.log[100:].save(tmp_path / "b")
    with pytest.raises(ExplorationLogError, match=r"has no truth\.safetensors, as only simulated ones have$"):
        load_expected(tmp_path / "b")
    (tmp_path / "a" / "truth.safetensors").rename(tmp_path / "b" / "truth.safetensors")
    with pytest.raises(ExplorationLogError, match=r"truth\.safetensors is that of requests .*; allowed: "):
        load_expected(tmp_path / "b")
    (tmp_path / "b" / "truth.safetensors").write_bytes(b"other")
    with pytest.raises(ExplorationLogError, match=r"truth\.safetensors is unreadable: "):
        load_expected(tmp_path / "b")


def test_a_log_that_cannot_be_is_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="top_k is 30; allowed: 1 to candidates 20"):
        ExplorationConfig(top_k=30, candidates=20)
    other = CONFIG.arms.model_copy(update={"actions": ("like", "save", "hide", "share")})
    with pytest.raises(
        ValidationError, match="actions is like, save, hide, share; allowed: click, save, hide, share"
    ):
        ExplorationConfig(arms=other)
    with pytest.raises(ValueError, match="candidates is 785; allowed: 1 to 784, the items that are shown"):
        simulated(folder, CONFIG.model_copy(update={"candidates": 785}))
    with pytest.raises(ValueError, match=r"share is 1e-09, and none of \d+ requests explores; allowed: "):
        simulated(folder, CONFIG.model_copy(update={"share": 1e-9}))


def test_only_feedviews_that_are_served_have_requests(folder: Path) -> None:
    interactions, truth = world(folder)
    served_F = truth.user_F % 2 == 0
    with Progress(disable=True) as progress:
        log = simulate_exploration(interactions, truth, CONFIG, progress, served_F=served_F).log
    asked = {int(request_id.split("-")[0]) for request_id in log.request_id_R}
    assert log.explored_R.any()
    assert not log.explored_R.all()
    assert served_F[list(asked)].all()


def test_any_weights_are_judged_in_the_same_requests(folder: Path, exploration: SimulatedExploration) -> None:
    weight_KA = CONFIG.arms.weights()
    # Twice the weights give the same order.
    with Progress(disable=True) as progress:
        expected_RXM = expected_of_weights(*world(folder), CONFIG, 2 * weight_KA[[49, 7]], progress)
    np.testing.assert_allclose(expected_RXM, exploration.expected_RKM[:, [49, 7]], rtol=1e-5)
