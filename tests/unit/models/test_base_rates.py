"""Smoothed rates: against counting by hand, against a slow walk over random rows, and at equal times."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from unipinrec.arrays import Bools, Int64s
from unipinrec.data.history import History
from unipinrec.data.sequences import RequestSequences, sequences_of
from unipinrec.models.baselines.rates import Rates, Shown
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.common.rates.base_rates import NEVER, Counts, log_odds, user_counts, user_features
from unipinrec.models.common.rates.rate_history import (
    CountsBefore,
    Judged,
    RateHistory,
    ShownRows,
    Strengths,
)


@dataclass(frozen=True)
class Most:
    max_events: int = 3
    max_impressions: int = 4


def rows(times: list[int], actions: int = 0) -> History:
    timestamp_N = np.array(times, np.int64)
    zero_N = np.zeros_like(timestamp_N)
    return History(item_row_N=zero_N, actions_N=zero_N + actions, timestamp_N=timestamp_N, surface_N=zero_N)


def asked(events: list[int], passed: list[int], actions: int = 1) -> RequestSequences:
    request = OfflineRequest(history=rows(events, actions), impressions=rows(passed), request_time=1000)
    return sequences_of([request], Most())


@pytest.mark.parametrize(
    ("events", "passed", "shown", "acted"),
    [
        ([], [], 0, 0),
        ([1, 2], [], 0, 0),
        ([], [1, 2], 2, 0),
        ([1, 6], [5, 7], 3, 1),
        ([5, 6], [5, 7], 4, 2),
        # Five events of which three are read, so what is older than the oldest of them is unknown.
        ([1, 2, 20, 30, 40], [3, 25, 35], 5, 3),
        # Six impressions of which four are read.
        ([4, 30], [1, 2, 3, 4, 5, 6], 6, 2),
    ],
)
def test_a_users_rows_count_where_both_sequences_reach_back(
    events: list[int], passed: list[int], shown: int, acted: int
) -> None:
    counts = user_counts(asked(events, passed, actions=5), Most(), actions=3)
    assert counts.shown_X.tolist() == [shown]
    assert counts.acted_XA.tolist() == [[acted, 0, acted]]


def test_a_user_without_impressions_has_the_prior() -> None:
    prior_A, strength_A = np.array([-2.0, 0.5], np.float32), np.array([10.0, 3.0], np.float32)
    found = user_features(asked([1, 2], []), Most(), prior_A, strength_A)
    assert found.user_rate_RA == pytest.approx(np.zeros((1, 2)), abs=1e-6)
    assert found.user_shown_R.tolist() == [0.0]
    other = user_features(asked([5, 6], [5, 7]), Most(), prior_A, strength_A)
    rate = (2 + 10 / (1 + math.exp(2))) / (4 + 10)
    assert other.user_rate_RA[0, 0] == pytest.approx(math.log(rate / (1 - rate)) + 2, abs=1e-6)
    assert other.user_shown_R[0] == pytest.approx(math.log(5))


def test_smoothing_is_that_of_the_rates_baseline() -> None:
    random = np.random.default_rng(2)
    item_S, label_S = random.integers(20, size=300), random.random(300) < 0.3
    baseline = Rates(Shown(item_S, item_S, label_S), 20, 20, strength=7.0)
    counts = Counts(np.bincount(item_S, minlength=20), np.bincount(item_S[label_S], minlength=20)[:, None])
    prior = math.log(baseline.global_rate / (1 - baseline.global_rate))
    found_X = log_odds(counts, np.full((20, 1), prior), np.array([7.0], np.float32))[:, 0]
    assert 1 / (1 + np.exp(-found_X)) == pytest.approx(baseline.rate_V, rel=1e-9)


def drawn(seed: int, count: int = 400) -> ShownRows:
    random = np.random.default_rng(seed)
    return ShownRows(
        item_row_S=random.integers(10, size=count),
        time_S=random.integers(100, 130, size=count),
        actions_S=random.integers(8, size=count) * (random.random(count) < 0.5),
    )


@pytest.mark.parametrize("seed", range(3))
def test_counts_before_a_time_are_those_of_a_slow_walk(seed: int) -> None:
    log, random = drawn(seed), np.random.default_rng(seed + 10)
    found = CountsBefore(log.item_row_S, log.time_S, log.actions_S, groups=12, actions=3)
    item_X, time_X = random.integers(12, size=60), random.integers(95, 135, size=60)
    time_X[:2] = NEVER
    counts = found.at(item_X, time_X)
    for index, (item, time) in enumerate(zip(item_X, time_X, strict=True)):
        before_S = (log.item_row_S == item) & (log.time_S < time)
        assert counts.shown_X[index] == before_S.sum()
        for action in range(3):
            assert counts.acted_XA[index, action] == ((log.actions_S[before_S] >> action) & 1).sum()
    assert counts.shown_X[time_X == NEVER].max() > 20


def test_rows_of_the_same_second_do_not_count() -> None:
    item_S, time_S = np.array([0, 0, 0]), np.array([5, 5, 6])
    counts = CountsBefore(item_S, time_S, np.ones(3, np.int64), groups=1, actions=1)
    assert counts.at(np.zeros(4, np.int64), np.array([5, 6, 7, 4])).shown_X.tolist() == [0, 2, 3, 0]


ATTRIBUTES = np.array([[0, 1], [1, -1], [-1, -1]])


def test_items_are_pulled_towards_their_attributes_and_these_to_the_global_rate() -> None:
    log = ShownRows(
        item_row_S=np.array([0, 0, 0, 1, 1, 2]),
        time_S=np.array([1, 2, 3, 1, 2, 3]),
        actions_S=np.array([1, 1, 0, 1, 0, 1]),
    )
    history = RateHistory(log, ATTRIBUTES, np.array([0.2]))
    history.strengths = Strengths(
        user_A=np.ones(1, np.float32), item_A=np.full(1, 4, np.float32), attribute_A=np.full(1, 2, np.float32)
    )
    found = history.items(np.array([0, 1, 2]), np.array([3, 3, 3]))

    def logit(rate: float) -> float:
        return math.log(rate / (1 - rate))

    # Before second 3: item 0 has 2 of 2, item 1 has 1 of 2; attribute 0 has 2 of 2, attribute 1 has 3 of 4.
    first, second = logit((2 + 2 * 0.2) / (2 + 2)) - logit(0.2), logit((3 + 2 * 0.2) / (4 + 2)) - logit(0.2)
    attribute = [(first + second) / 2, second, 0.0]
    assert found.attribute_rate_CA[:, 0] == pytest.approx(attribute, abs=1e-6)
    assert found.attribute_shown_C == pytest.approx(
        [(math.log(3) + math.log(5)) / 2, math.log(5), 0], abs=1e-6
    )
    for index, (acted, shown) in enumerate([(2, 2), (1, 2), (0, 0)]):
        prior = 1 / (1 + math.exp(-logit(0.2) - attribute[index]))
        own = logit((acted + 4 * prior) / (shown + 4)) - logit(prior)
        assert found.item_rate_CA[index, 0] == pytest.approx(own, abs=1e-6)
        assert found.item_shown_C[index] == pytest.approx(math.log(1 + shown), abs=1e-6)


def test_frozen_rates_are_those_after_all_rows() -> None:
    history = RateHistory(drawn(4), np.arange(10)[:, None] % 3, np.array([0.3, 0.2, 0.1]))
    frozen, item_V = history.frozen(), np.arange(10)
    last = history.items(item_V, np.full(10, 131))
    for name, value in last._asdict().items():
        assert np.array_equal(getattr(frozen.items(item_V), name), value)
        assert value.dtype == np.float32
    sequences = asked([5, 6], [5, 7])
    found, expected = frozen.users(sequences, Most()), history.users(sequences, Most())
    assert np.array_equal(found.user_rate_RA, expected.user_rate_RA)


def judged_by(item_row_C: Int64s, time_C: Int64s, label_CA: Bools) -> Judged:
    nobody = Counts(np.zeros(1, np.int64), np.zeros((1, label_CA.shape[1]), np.int64))
    request_C = np.zeros_like(item_row_C)
    return Judged(
        item_row_C=item_row_C, time_C=time_C, request_C=request_C, label_CA=label_CA, user_counts=nobody
    )


def test_strengths_are_small_where_items_differ_and_large_where_they_do_not() -> None:
    random = np.random.default_rng(0)
    rate_VA = np.stack([random.permutation(np.linspace(0.02, 0.6, 200)), np.full(200, 0.3)], axis=1)
    item_S, time_S = random.integers(200, size=8_000), np.sort(random.integers(1_000, size=8_000))
    label_SA = random.random((8_000, 2)) < rate_VA[item_S]
    log = ShownRows(item_row_S=item_S, time_S=time_S, actions_S=label_SA @ np.array([1, 2]))
    history = RateHistory(log, np.full((200, 1), -1), label_SA.mean(axis=0))
    history.choose_strengths(judged_by(item_S[4_000:], time_S[4_000:], label_SA[4_000:]))
    varied, equal = history.strengths.item_A
    assert varied <= 10
    assert equal >= 300
