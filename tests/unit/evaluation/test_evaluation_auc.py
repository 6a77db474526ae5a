"""AUC, per user and of everything, against scikit-learn and pairs counted by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unipinrec.evaluation import bootstrap
from unipinrec.evaluation.auc import auc, auc_by_user, auc_difference, auc_estimate, gauc

Impressions = list[tuple[int, int, bool]]
"""User, score, label: few scores, so that many tie."""
IMPRESSIONS = st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 3), st.booleans()), max_size=40)


def columns(rows: Impressions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and users."""
    user_S, score_S, label_S = np.array(rows, np.int64).reshape(-1, 3).T
    return score_S.astype(np.float64), label_S.astype(bool), user_S


def test_a_pair_in_order_counts_one_and_a_tie_half() -> None:
    # Positives 2 and 4, negatives 1 and 3: won 2-1, 4-1, 4-3, lost 2-3.
    assert auc(np.array([1.0, 2, 3, 4]), np.array([False, True, False, True])) == 0.75
    assert auc(np.array([1.0, 1]), np.array([False, True])) == 0.5
    assert auc(np.array([-np.inf, -np.inf, np.inf]), np.array([False, True, True])) == 0.75


@settings(deadline=None)
@given(IMPRESSIONS.filter(lambda rows: len({label for _, _, label in rows}) == 2))
def test_auc_is_that_of_scikit_learn(rows: Impressions) -> None:
    score_S, label_S, _ = columns(rows)
    assert auc(score_S, label_S) == pytest.approx(roc_auc_score(label_S, score_S))


def test_users_weigh_by_impressions_and_count_with_both_labels() -> None:
    # User 7: 3 of 4 pairs, 4 impressions. User 2: a tie, 2 impressions. User 5 has only positives.
    score_S = np.array([1.0, 1, 1, 2, 9, 3, 4])
    label_S = np.array([False, True, False, True, True, False, True])
    user_S = np.array([2, 2, 7, 7, 5, 7, 7])
    by_user = auc_by_user(score_S, label_S, user_S)
    assert by_user.user_G.tolist() == [2, 7]
    assert by_user.auc_G.tolist() == [0.5, 0.75]
    assert by_user.impressions_G.tolist() == [2, 4]
    assert gauc(score_S, label_S, user_S).mean == pytest.approx((2 * 0.5 + 4 * 0.75) / 6)


@settings(deadline=None)
@given(IMPRESSIONS)
def test_auc_by_user_is_scikit_learn_user_by_user(rows: Impressions) -> None:
    score_S, label_S, user_S = columns(rows)
    by_user = auc_by_user(score_S, label_S, user_S)
    expected = {
        user: roc_auc_score(label_S[user_S == user], score_S[user_S == user])
        for user in range(5)
        if len(set(label_S[user_S == user])) == 2
    }
    assert by_user.user_G.tolist() == list(expected)
    assert by_user.auc_G == pytest.approx(list(expected.values()))
    assert by_user.impressions_G.tolist() == [int((user_S == user).sum()) for user in expected]


def test_what_separates_users_raises_auc_and_not_gauc() -> None:
    user_S = np.repeat([0, 1], 10)
    label_S = np.tile([True, False], 10) | (user_S == 1) & (np.arange(20) < 18)
    score_S = user_S.astype(np.float64)
    assert auc(score_S, label_S) > 0.6
    assert gauc(score_S, label_S, user_S).mean == 0.5


def test_slates_weigh_by_impressions_and_users_are_resampled_whole() -> None:
    # Slates 0 and 1 of user 3 have areas 1 and 0, slate 2 of user 8 has 1/2; slate 3 has one label.
    user_S = np.array([3, 3, 3, 3, 3, 8, 8, 8])
    slate_S = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    score_S = np.array([2.0, 1, 1, 2, 2, 5, 5, 6])
    label_S = np.array([True, False, True, False, False, True, False, True])
    found = gauc(score_S, label_S, user_S, group_S=slate_S)
    assert found.mean == pytest.approx((2 * 1 + 3 * 0 + 2 * 0.5) / 7)
    assert (found.low, found.high) == pytest.approx((2 / 5, 0.5))
    reverse = gauc(score_S, label_S, user_S, group_S=slate_S, other_S=-score_S)
    assert reverse.mean == pytest.approx((2 * 1 - 3 * 1 + 2 * 0) / 7)


def test_rates_that_follow_a_users_labels_lose_within_users_where_nothing_can_be_known() -> None:
    random = np.random.default_rng(0)
    rate_U1 = random.beta(2, 1, (300, 1))
    label_UN = random.random((300, 12)) < rate_U1
    before_UN = np.cumsum(label_UN, axis=1) - label_UN
    score_S, label_S = ((before_UN + 1) / (np.arange(12) + 2)).ravel(), label_UN.ravel()
    user_S = np.repeat(np.arange(300), 12)
    assert auc(score_S, label_S) > 0.6
    assert gauc(score_S, label_S, user_S).high < 0.4


def test_the_interval_of_auc_is_that_of_weighted_scikit_learn() -> None:
    random = np.random.default_rng(0)
    user_S = random.integers(12, size=150) * 3
    label_S = random.random(150) < 0.3
    score_S = np.round(random.normal(size=150) + label_S, 1)
    users = np.unique(user_S)
    draws = np.random.default_rng(bootstrap.SEED)
    areas = []
    for _ in range(bootstrap.RESAMPLES):
        drawn = users[draws.integers(len(users), size=len(users))]
        weight_S = (user_S[:, None] == drawn).sum(axis=1)
        areas.append(roc_auc_score(label_S, score_S, sample_weight=weight_S))
    found = auc_estimate(score_S, label_S, user_S)
    assert found.mean == pytest.approx(roc_auc_score(label_S, score_S))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])))


def test_a_difference_is_paired_by_user() -> None:
    """A slightly better score of the same users: certain, though the intervals of both overlap."""
    random = np.random.default_rng(4)
    user_S, label_S = np.repeat(np.arange(40), 30), random.random(1200) < 0.4
    shared_S = 1.5 * label_S + random.standard_normal(1200) + random.standard_normal(40)[user_S]
    better_S = shared_S + 0.3 * label_S
    found = auc_difference(better_S, shared_S, label_S, user_S)
    assert found.mean == pytest.approx(roc_auc_score(label_S, better_S) - roc_auc_score(label_S, shared_S))
    assert 0 < found.low < found.mean < found.high
    alone = [auc_estimate(score_S, label_S, user_S) for score_S in (better_S, shared_S)]
    assert alone[0].low < alone[1].high
    assert auc_difference(shared_S, shared_S, label_S, user_S) == bootstrap.Estimate(0, 0, 0)
    with pytest.raises(ValueError, match="shape of b is"):
        auc_difference(shared_S, shared_S[1:], label_S, user_S)


def test_resamples_without_both_labels_are_left_out() -> None:
    # Either user alone has one label, so only resamples with both are left: each has AUC 1.
    found = auc_estimate(np.array([1.0, 2.0]), np.array([False, True]), np.array([0, 1]))
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: auc(np.ones(2), np.ones(2, bool)),
            "positives is 2 of 2; allowed: at least one, but not all",
        ),
        (
            lambda: auc(np.ones(0), np.ones(0, bool)),
            "positives is 0 of 0; allowed: at least one, but not all",
        ),
        (
            lambda: auc(np.array([1, np.nan]), np.eye(2, dtype=bool)[0]),
            r"scores\[1\] is nan; allowed: a number",
        ),
        (
            lambda: gauc(np.ones(2), np.ones(2, bool), np.zeros(2, np.int64)),
            "users with both labels is 0; allowed: 1 or more",
        ),
        (
            lambda: auc_by_user(np.ones(2), np.ones(2, bool), np.zeros(1, np.int64)),
            r"shape of users is \(1,\); allowed: \(2,\)",
        ),
    ],
)
def test_what_has_no_auc_is_refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        act()
