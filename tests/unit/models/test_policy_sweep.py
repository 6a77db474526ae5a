"""The sweep over alphas, held against a bandit whose every expected reward is known."""

from functools import cache

import numpy as np
import pytest

from tests.support.bandit import ARMS, COHORTS, Bandit, bandit
from unipinrec.evaluation.pareto import hypervolume, non_dominated
from unipinrec.models.policy.card import Alphas, Candidate, Sweep
from unipinrec.models.policy.choice import choose, default_limits, find_candidate
from unipinrec.models.policy.judged import HeldOut
from unipinrec.models.policy.sweep import (
    ALPHAS,
    BY_COHORT,
    KNEE,
    LEAN_FIRST,
    LEAN_SECOND,
    POINTS,
    halves,
    pick,
    sweep,
)

REWARDS = ("save", "share")
USERS = 2_000


@cache
def world() -> Bandit:
    return bandit(users=USERS, requests_each=40)


@cache
def small() -> Bandit:
    return bandit(users=400, requests_each=40)


@cache
def swept() -> Sweep:
    return sweep(world().held_out, alpha=0.3, report=lambda _: None)


def reporting() -> Bandit:
    return world()[~halves(world().held_out.log.user_id_R)]


def point(name: str) -> Candidate:
    return find_candidate(swept(), point=name, alpha=None, by_cohort=False)


def test_estimated_lifts_of_all_alphas_agree_with_the_true_ones() -> None:
    true_A2 = np.array([reporting().lift(reporting().held_out.arms_at(alpha)) for alpha in ALPHAS])
    for m, name in enumerate(("first", "second")):
        lifts = [getattr(point, name).lift for point in swept().everyone.alphas]
        assert np.corrcoef([lift.value for lift in lifts], true_A2[:, m])[0, 1] > 0.95
        covered = [lift.low <= true <= lift.high for lift, true in zip(lifts, true_A2[:, m], strict=True)]
        assert np.mean(covered) >= 0.9


def test_each_alpha_takes_the_arm_with_the_best_weighted_sum_and_the_lowest_of_equal_ones() -> None:
    value_RKM = np.zeros((2, len(ARMS), 2), np.float32)
    value_RKM[0, [3, 7]] = [[0.5, 0.1], [0.1, 0.5]]
    requests = HeldOut(
        log=world().held_out.log[:2], value_RKM=value_RKM, cohort_R=np.array([0, 2]), cohorts=COHORTS
    )
    assert requests.arms_at(0.0).tolist() == [3, 0]
    assert requests.arms_at(0.5).tolist() == [3, 0]
    assert requests.arms_at(1.0).tolist() == [7, 0]
    assert requests.arms_of(Alphas(default=0.0, cohorts={"core": 0.6})).tolist() == [7, 0]


def test_a_user_chooses_or_reports_never_both_and_always_the_same() -> None:
    users = [f"user {number}" for number in range(4_000)]
    chooses = halves(users)
    assert 0.45 < chooses.mean() < 0.55
    assert (halves(users[::-1]) == chooses[::-1]).all()
    groups = swept().choosing, swept().everyone
    assert sum(group.users for group in groups) == USERS
    assert sum(group.requests for group in groups) == len(world().held_out)


def test_operating_points_depend_on_the_choosing_half_alone() -> None:
    """Rewards of the reporting half are turned round, and the same points are picked."""
    log = small().held_out.log
    other_R = ~halves(log.user_id_R)
    reward_RM = np.where(other_R[:, None], 1 - log.reward_RM, log.reward_RM)
    turned = small().with_rewards(reward_RM)
    once, again = (sweep(b.held_out, alpha=None, report=lambda _: None) for b in (small(), turned))
    assert [(c.name, c.alphas, c.promised) for c in again.candidates] == [
        (c.name, c.alphas, c.promised) for c in once.candidates
    ]
    for place in (0, 12, 24):
        hits = [found.everyone.alphas[place].first.hit.value for found in (once, again)]
        assert sum(hits) == pytest.approx(1.0, abs=1e-5)


def test_the_lean_points_and_the_knee_are_those_of_a_drawn_frontier() -> None:
    lifts = np.array([[-0.02, 0.30], [0.01, 0.20], [0.06, 0.18], [0.05, 0.10], [0.09, 0.02], [0.10, -0.01]])
    assert pick(lifts) == {LEAN_FIRST: 4, KNEE: 2, LEAN_SECOND: 1}
    harmful = np.array([[-0.02, 0.30], [0.10, -0.01], [-0.05, 0.2]])
    assert pick(harmful)[LEAN_FIRST] == 1
    assert pick(harmful)[LEAN_SECOND] == 0


def test_points_are_in_the_order_of_their_names_and_better_than_every_static_arm() -> None:
    lean_first, knee, lean_second = (point(name) for name in POINTS)
    assert lean_first.alphas.default <= knee.alphas.default <= lean_second.alphas.default
    assert lean_first.first.lift.value > lean_second.first.lift.value
    assert lean_first.second.lift.value < lean_second.second.lift.value
    gain = swept().everyone.hypervolume_gain
    assert 0 < gain.low < gain.value < gain.high


def test_the_hypervolume_and_who_is_dominated_follow_from_the_lifts_in_the_card() -> None:
    for family, area in (
        (swept().everyone.alphas, swept().everyone.hypervolume),
        (swept().everyone.arms, swept().everyone.arms_hypervolume),
    ):
        lifts = np.array([[p.first.lift.value, p.second.lift.value] for p in family])
        assert hypervolume(lifts, np.zeros(2)) == pytest.approx(area.value, rel=1e-4)
        assert [not p.dominated for p in family] == non_dominated(lifts).tolist()


def test_an_alpha_says_where_its_requests_go() -> None:
    requests = reporting().held_out
    for place, alpha in ((0, 0.0), (12, 0.5)):
        told = swept().everyone.alphas[place]
        arm_R = requests.arms_at(alpha)
        share_K = np.array([(arm_R == arm).mean() for arm in range(len(ARMS))])
        assert told.alpha == alpha
        assert told.arm_shares == pytest.approx(share_K, abs=1e-5)
        assert told.weights == pytest.approx(tuple(share_K @ ARMS.weights()[:, :2]), rel=1e-4)
        assert told.hits == (arm_R == requests.log.arm_R).sum()
        # Propensities are equal, so every hit weighs the same.
        assert told.effective_requests == pytest.approx(told.hits, rel=1e-5)


def test_production_is_the_last_arm_with_no_lift() -> None:
    production = swept().everyone.arms[-1]
    assert production.arm == ARMS.production_arm
    assert production.first.lift.model_dump() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_cohorts_have_frontiers_and_alphas_of_their_own() -> None:
    assert tuple(swept().cohorts) == COHORTS
    everyone = swept().everyone
    assert sum(group.requests for group in swept().cohorts.values()) == everyone.requests
    mixed = find_candidate(swept(), point=KNEE, alpha=None, by_cohort=True)
    assert mixed.name == KNEE + BY_COHORT
    assert set(mixed.alphas.cohorts) == set(COHORTS)
    true_2 = reporting().lift(reporting().held_out.arms_of(mixed.alphas))
    assert mixed.first.lift.low <= true_2[0] <= mixed.first.lift.high


def test_a_cohort_with_few_requests_is_left_out() -> None:
    requests = small().held_out
    # One user has 40 requests, too few for 50 arms.
    lone_R = requests.log.user_id_R == "u5"
    cohort_R = np.where(lone_R, 0, 1)
    few = HeldOut(log=requests.log, value_RKM=requests.value_RKM, cohort_R=cohort_R, cohorts=("one", "rest"))
    found = sweep(few, alpha=None, report=lambda _: None)
    assert tuple(found.cohorts) == ("rest",)
    assert [candidate.name for candidate in found.candidates] == list(POINTS)
    with pytest.raises(ValueError, match="operating point is knee by cohort; allowed: lean-first, knee"):
        find_candidate(found, point=KNEE, alpha=None, by_cohort=True)


def test_resamples_without_a_request_of_an_arm_do_not_spoil_a_small_sweep() -> None:
    """In 1,200 requests of 60 users an arm has about 12 in each half, and some resamples have none of it."""
    requests = bandit(users=60, requests_each=20).held_out
    logged_K = np.bincount(requests[~halves(requests.log.user_id_R)].log.arm_R)
    assert 1 <= logged_K.min() < 6
    found = sweep(requests, alpha=None, report=lambda _: None)
    assert not found.cohorts
    area = found.everyone.arms_hypervolume
    assert 0 <= area.low <= area.value < area.high < np.inf


def test_an_alpha_that_was_asked_for_is_chosen() -> None:
    candidate = find_candidate(swept(), point=KNEE, alpha=0.3, by_cohort=False)
    choice = choose(candidate, REWARDS, default_limits(REWARDS))
    assert choice.chosen == Alphas(default=0.3)
    assert choice.why.startswith("alpha (alpha 0.3): it was asked for.")


def test_a_point_whose_guardrails_hold_is_chosen() -> None:
    choice = choose(point(KNEE), REWARDS, default_limits(REWARDS))
    assert choice.chosen == point(KNEE).alphas
    assert [(rail.name, rail.passed) for rail in choice.guardrails] == [
        ("lift:save", True), ("lift:share", True), ("hits", True), ("effective_requests", True)
    ]  # fmt: skip
    assert choice.why.startswith("knee (alpha ")


def test_a_guardrail_that_fails_leads_to_the_production_weights() -> None:
    limits = {**default_limits(REWARDS), "lift:share": 0.9}
    choice = choose(point(KNEE), REWARDS, limits)
    assert choice.chosen is None
    assert choice.why.startswith("Production weights, since knee (alpha ")
    assert "fails lift:share." in choice.why
    assert [rail.name for rail in choice.guardrails if not rail.passed] == ["lift:share"]


def test_an_unknown_guardrail_is_refused() -> None:
    with pytest.raises(
        ValueError, match="guardrail is lift:hide; allowed: lift:save, lift:share, hits, effective_requests"
    ):
        choose(point(KNEE), REWARDS, {"lift:hide": 0.0})
