"""The stored truth is what produced the log, and the world has the structure that models are tested on.

Shapes: S shown rows, F feedviews, B feedviews asked for, V items, A actions, D latent width.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.simulated import SMALL, small, small_rows
from unipinrec.simulator import SimulatorConfig, simulate
from unipinrec.simulator.choice import draw_actions

CLICK, SAVE, HIDE, SHARE = range(4)


def shown_truth() -> NDArray[np.float32]:
    return small().truth.shown_probabilities(small_rows().feedview_S, small_rows().item_row_S)


@pytest.mark.parametrize("action", [CLICK, SAVE, HIDE, SHARE])
@pytest.mark.parametrize("explored", [True, False])
def test_actions_are_as_frequent_as_the_truth_says(action: int, explored: bool) -> None:
    rows = small_rows()
    chosen = rows.explored_S == explored
    probability_S, done_S = shown_truth()[chosen, action], rows.done_SA[chosen, action]
    deciles = np.array_split(np.argsort(probability_S), 10)
    expected = np.array([probability_S[part].sum() for part in deciles])
    variance = np.array([(probability_S[part] * (1 - probability_S[part])).sum() for part in deciles])
    found = np.array([done_S[part].sum() for part in deciles])
    assert expected[-1] > 20 * expected[0]
    assert expected[-1] > 50
    assert np.all(np.abs(found - expected) < 3.5 * np.sqrt(variance) + 1)


def test_probabilities_follow_the_documented_formulas() -> None:
    truth = small().truth
    feedview, item = len(truth) // 2, 17
    dot = sum(
        float(t) * float(z) for t, z in zip(truth.taste_FD[feedview], truth.latent_VD[item], strict=True)
    )
    own_A = truth.user_propensity_UA[truth.user_F[feedview]] + truth.item_propensity_VA[item]
    choice = truth.config.choice
    click, save, hide, share = (
        1 / (1 + math.exp(-(bias + weight * dot + float(own))))
        for bias, weight, own in zip(choice.bias, choice.affinity_weight, own_A, strict=True)
    )
    expected = [click, click * save, (1 - click) * hide, click * share]
    assert truth.action_probabilities(np.array([feedview]))[0, item] == pytest.approx(expected, rel=1e-5)
    pair = truth.shown_probabilities(np.array([feedview]), np.array([item]))[0]
    assert pair == pytest.approx(expected, rel=1e-5)


def test_any_number_of_feedviews_gives_each_its_own_answer() -> None:
    truth = small().truth
    index_B = np.arange(150)[::-1] * 3
    answer_BVA = truth.action_probabilities(index_B)
    assert answer_BVA.shape == (150, SMALL.items, 4)
    for index in (0, 63, 64, 149):
        alone_VA = truth.action_probabilities(index_B[index : index + 1])[0]
        np.testing.assert_allclose(answer_BVA[index], alone_VA, rtol=1e-4)
    assert truth.action_probabilities(np.empty(0, np.int64)).shape == (0, SMALL.items, 4)


def test_drawn_actions_have_these_joint_frequencies() -> None:
    count = 200_000
    conditional_SA = np.tile([0.5, 0.4, 0.3, 0.2], (count, 1))
    found = np.bincount(draw_actions(conditional_SA, np.random.default_rng(1)), minlength=16) / count
    expected = np.zeros(16)
    expected[0], expected[4] = 0.5 * 0.7, 0.5 * 0.3
    expected[1], expected[3] = 0.5 * 0.6 * 0.8, 0.5 * 0.4 * 0.8
    expected[9], expected[11] = 0.5 * 0.6 * 0.2, 0.5 * 0.4 * 0.2
    assert found == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))
    assert found[expected == 0].sum() == 0


def test_default_rates_are_those_of_a_feed() -> None:
    events = simulate(SimulatorConfig(users=400), lambda _: None).events
    rate_A = [(events["actions"].to_numpy() & bit != 0).mean() for bit in (1, 2, 4, 8)]
    for rate, (low, high) in zip(
        rate_A, [(0.10, 0.16), (0.03, 0.045), (0.02, 0.03), (0.01, 0.02)], strict=True
    ):
        assert low < rate < high


def test_who_knows_the_taste_tells_clicked_items_from_others() -> None:
    rows, truth = small_rows(), small().truth
    chosen = rows.explored_S
    clicked_S = rows.done_SA[chosen, CLICK]
    knowing = auc(shown_truth()[chosen, CLICK], clicked_S)
    stranger_S = np.random.default_rng(0).permutation(len(truth))[rows.feedview_S[chosen]]
    of_strangers = truth.shown_probabilities(stranger_S, rows.item_row_S[chosen])[:, CLICK]
    assert knowing > 0.8
    assert auc(of_strangers, clicked_S) < knowing - 0.15


def auc(score_S: NDArray[np.float32], positive_S: NDArray[np.bool_]) -> float:
    rank_S = np.argsort(np.argsort(score_S))
    positives = positive_S.sum()
    above = rank_S[positive_S].sum() - positives * (positives - 1) / 2
    return float(above / positives / (len(rank_S) - positives))


def test_who_asks_for_saves_wants_other_items_than_who_asks_for_clicks_or_shares() -> None:
    best_BKA = np.argsort(-small().truth.action_probabilities(np.arange(0, 2_000, 20)), axis=1)[:, :20]

    def overlap(first: int, second: int) -> float:
        pairs = zip(best_BKA[..., first], best_BKA[..., second], strict=True)
        return float(np.mean([len(np.intersect1d(a, b)) for a, b in pairs])) / 20

    assert overlap(CLICK, SAVE) < 0.75
    assert overlap(SAVE, SHARE) < 0.5
    assert overlap(CLICK, HIDE) == 0


def test_saveable_topics_are_not_the_shareable_ones() -> None:
    truth = small().truth
    mean_CA = np.array(
        [truth.item_propensity_VA[truth.topic_V == topic].mean(axis=0) for topic in range(SMALL.topics)]
    )
    assert mean_CA[:, SAVE].std() > 0.5
    assert np.corrcoef(mean_CA[:, SAVE], mean_CA[:, SHARE])[0, 1] < -0.8


def test_content_tells_what_cold_items_are_like() -> None:
    truth = small().truth
    content_VF = np.array(small().items["content"].to_list())
    known_V1 = np.column_stack([content_VF, np.ones(len(content_VF))])
    hidden_VX = np.concatenate([truth.latent_VD, truth.item_propensity_VA], axis=1)
    warm, cold = ~truth.cold_V, truth.cold_V
    weights, *_ = np.linalg.lstsq(known_V1[warm], hidden_VX[warm], rcond=None)
    error_VX = hidden_VX[cold] - known_V1[cold] @ weights
    unexplained = (error_VX**2).sum() / ((hidden_VX[cold] - hidden_VX[warm].mean(axis=0)) ** 2).sum()
    assert 0.01 < unexplained < 0.4


def test_clicks_pull_the_taste_for_the_rest_of_the_session() -> None:
    rows, truth = small_rows(), small().truth
    checked = 0
    for feedview in np.flatnonzero(same_session(truth.user_F, truth.session_F))[:300].tolist():
        clicked = rows.item_row_S[(rows.feedview_S == feedview) & rows.done_SA[:, CLICK]]
        before, after = truth.taste_FD[feedview], truth.taste_FD[feedview + 1]
        if len(clicked) == 0:
            assert after == pytest.approx(before, abs=1e-6)
            continue
        moved = before + 0.25 * truth.latent_VD[clicked].mean(axis=0)
        assert after == pytest.approx(moved / np.linalg.norm(moved), abs=1e-5)
        checked += 1
    assert checked > 150


def same_session(user_F: NDArray[np.int64], session_F: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Feedviews that the next one follows in the same session, [F - 1]."""
    return (np.diff(user_F) == 0) & (np.diff(session_F) == 0)


def test_what_topic_follows_depends_on_the_last_one_for_everyone_alike() -> None:
    truth = small().truth
    begin_F = np.flatnonzero(np.append(True, ~same_session(truth.user_F, truth.session_F)))
    user_F, topic_F = truth.user_F[begin_F], truth.topic_F[begin_F]
    followed = np.diff(user_F) == 0
    user_F, last_F, next_F = user_F[:-1][followed], topic_F[:-1][followed], topic_F[1:][followed]
    assert (last_F == next_F).mean() < 0.2

    def lift(part_F: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Transitions over those expected of each user's own share of topics, [C, C]."""
        share_UC = np.zeros((SMALL.users, SMALL.topics))
        np.add.at(share_UC, (user_F, next_F), 1)
        share_UC /= share_UC.sum(axis=1, keepdims=True).clip(1)
        found_CC, expected_CC = np.ones((2, SMALL.topics, SMALL.topics))
        np.add.at(found_CC, (last_F[part_F], next_F[part_F]), 1)
        np.add.at(expected_CC, last_F[part_F], share_UC[user_F[part_F]])
        return np.log(found_CC / expected_CC)

    even_CC, odd_CC = lift(user_F % 2 == 0), lift(user_F % 2 == 1)
    different = ~np.eye(SMALL.topics, dtype=bool)
    assert np.corrcoef(even_CC[different], odd_CC[different])[0, 1] > 0.5


@pytest.mark.parametrize(("drift", "low", "high"), [(0.0, 0.0, 0.0), (0.3, 0.5, 1.0)])
def test_interests_change_only_by_drift(drift: float, low: float, high: float) -> None:
    config = SMALL.model_copy(update={"users": 200, "sessions": 15.0, "drift": drift})
    truth = simulate(config, lambda _: None).truth
    topics_U = [len(np.unique(truth.topic_F[truth.user_F == user])) for user in range(200)]
    assert low <= np.mean(np.array(topics_U) > 4) <= high


def sessions_of(config: SimulatorConfig) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Return the topics of each user's sessions, and the taste at the start of all sessions."""
    truth = simulate(config, lambda _: None).truth
    first_F = np.append(True, (np.diff(truth.user_F) != 0) | (np.diff(truth.session_F) != 0))
    topics = [truth.topic_F[first_F & (truth.user_F == user)].tolist() for user in range(config.users)]
    return topics, truth.taste_FD[first_F]


LONG = SimulatorConfig(users=20, items=200, sessions=60, interests=(8, 9), awake_interests=2, drift=0.0)


def test_sessions_are_about_interests_that_are_awake() -> None:
    topics, _ = sessions_of(LONG)
    assert max(len(set(of_user)) for of_user in topics) == 2
    everything, _ = sessions_of(LONG.model_copy(update={"awake_interests": 0}))
    assert min(len(set(of_user)) for of_user in everything if len(of_user) > 30) > 4


def test_interests_go_dormant_and_come_back_as_they_were() -> None:
    topics, taste_XD = sessions_of(LONG.model_copy(update={"waking": 0.4}))
    assert 7 <= max(len(set(of_user)) for of_user in topics) <= 9
    away, similar, other, begin = [], [], [], 0
    for of_user in topics:
        taste_ND = taste_XD[begin : begin + len(of_user)]
        begin += len(of_user)
        for topic in set(of_user):
            (at,) = np.nonzero(np.array(of_user) == topic)
            back = at[1:][np.diff(at) > 10]
            away += np.diff(at)[np.diff(at) > 2].tolist()
            similar += np.einsum("nd,nd->n", taste_ND[back], taste_ND[np.full(len(back), at[0])]).tolist()
            other += (taste_ND[back] @ taste_ND[np.array(of_user) != topic].T).ravel().tolist()
    assert len(similar) > 100
    assert np.mean(away) > 8
    assert np.mean(similar) > np.mean(other) + 0.5
