"""The sweep over alphas (PRL-PUTS §3.3): what each one's policy would earn, and which are worth a choice.

Operating points are chosen on one half of the users and reported on the other, since the best of many looks
better than it is on what chose it.

Shapes: R explored requests, A alphas, P policies, B resamples of users; 2 rewards.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.evaluation.pareto import frontier, hypervolume, knee, non_dominated
from unipinrec.models.policy.card import AlphaPoint, Alphas, ArmPoint, Candidate, Frontier, Sweep
from unipinrec.models.policy.judged import HeldOut, Judged, estimated, pair, rounded

ALPHAS: Float64s = np.linspace(0.0, 1.0, 25).round(6)

MIN_HITS = 10
"""Fewest logged requests of every arm, in each half of the users, with which a cohort is looked at alone."""

LEAN_FIRST, KNEE, LEAN_SECOND = POINTS = ("lean-first", "knee", "lean-second")

ASKED = "alpha"
"""Name of the operating point whose alpha was asked for."""

BY_COHORT = " by cohort"

Report = Callable[[str], None]
"""Told what is judged next."""

PRODUCTION_LIFT_2: Float64s = np.zeros(2)


def halves(user_ids: Iterable[str]) -> Bools:
    """Return which of the users choose, by a hash of their ids: about half of them, always the same ones."""
    return np.array([sha256(user.encode()).digest()[0] < 128 for user in user_ids], bool)


def sweep(requests: HeldOut, *, alpha: float | None, report: Report) -> Sweep:
    """Judge 25 alphas and every static arm, for everyone and by cohort, and pick operating points; one more
    has `alpha`, if there is one.

    Raises `NoSupportError` where an arm was not logged in one half of the users.
    """
    choosing_R = halves(requests.log.user_id_R)
    choosing, reporting = requests[choosing_R], requests[~choosing_R]
    cohorts = _large_cohorts(choosing, reporting)
    report(f"choosing operating points on {len(choosing):,} explored requests of one half of the users")
    candidates = _candidates(choosing, cohorts)
    if alpha is not None:
        candidates[ASKED] = Alphas(default=alpha)
    promised_P2 = Judged(choosing, [choosing.arms_of(alphas) for alphas in candidates.values()]).lifts()
    report(f"judging them on {len(reporting):,} of the other half")
    judged = Judged(reporting, [reporting.arms_of(alphas) for alphas in candidates.values()])
    frontiers = {}
    for name, rows_R in {"everyone": None, **_rows_of(cohorts, reporting)}.items():
        report(f"judging {len(ALPHAS)} alphas and {len(requests.log.info.arms)} static arms for {name}")
        frontiers[name] = _frontier(reporting if rows_R is None else reporting[rows_R])
    return Sweep(
        choosing=choosing.group,
        everyone=frontiers.pop("everyone"),
        cohorts=frontiers,
        candidates=tuple(
            Candidate(name=name, alphas=alphas, promised=pair(promised_2), **dict(numbers))
            for (name, alphas), promised_2, numbers in zip(
                candidates.items(), promised_P2, judged.numbers(), strict=True
            )
        ),
    )


def pick(lift_A2: Float64s) -> dict[str, int]:
    """Return the index of every operating point among policies with these lifts over production.

    Only policies that no other one beats are picked, and only those that lose neither reward, if there are
    any. The lean ones have the most of the first and of the second reward; the knee lies between.
    """
    kept = frontier(lift_A2)
    harmless = kept[(lift_A2[kept] >= 0).all(axis=1)]
    kept = harmless if len(harmless) else kept
    return {
        LEAN_FIRST: int(kept[-1]),
        KNEE: int(kept[knee(lift_A2[kept])]),
        LEAN_SECOND: int(kept[0]),
    }


def _candidates(choosing: HeldOut, cohorts: Mapping[str, int]) -> dict[str, Alphas]:
    everyone = _picked_alphas(choosing)
    candidates = {point: Alphas(default=alpha) for point, alpha in everyone.items()}
    by_cohort = {
        name: _picked_alphas(choosing[rows_R]) for name, rows_R in _rows_of(cohorts, choosing).items()
    }
    if len(by_cohort) > 1:
        for point, alpha in everyone.items():
            own = {name: picked[point] for name, picked in by_cohort.items()}
            candidates[point + BY_COHORT] = Alphas(default=alpha, cohorts=own)
    return candidates


def _picked_alphas(choosing: HeldOut) -> dict[str, float]:
    lift_A2 = Judged(choosing, [choosing.arms_at(alpha) for alpha in ALPHAS]).lifts()
    return {point: float(ALPHAS[index]) for point, index in pick(lift_A2).items()}


def _large_cohorts(*halves: HeldOut) -> dict[str, int]:
    def fewest_hits(half: HeldOut, cohort: int) -> int:
        arm_R = half.log.arm_R[half.cohort_R == cohort]
        return int(np.bincount(arm_R, minlength=len(half.log.info.arms)).min())

    return {
        name: cohort
        for cohort, name in enumerate(halves[0].cohorts)
        if min(fewest_hits(half, cohort) for half in halves) >= MIN_HITS
    }


def _rows_of(cohorts: Mapping[str, int], requests: HeldOut) -> dict[str, Bools]:
    return {name: requests.cohort_R == cohort for name, cohort in cohorts.items()}


def _frontier(requests: HeldOut) -> Frontier:
    arms = len(requests.log.info.arms)
    arm_AR = [requests.arms_at(alpha) for alpha in ALPHAS]
    judged = Judged(requests, [*arm_AR, *(np.full(len(requests), arm) for arm in range(arms))])
    numbers, lift_P2 = list(judged.numbers()), judged.lifts()
    learned, static = np.split(np.arange(len(numbers)), [len(ALPHAS)])
    area, area_B = _areas(lift_P2, judged.resampled_lifts(), learned)
    static_area, static_area_B = _areas(lift_P2, judged.resampled_lifts(), static)
    return Frontier(
        **dict(requests.group),
        alphas=tuple(
            AlphaPoint(
                alpha=float(alpha),
                arm_shares=tuple(rounded(n / len(requests)) for n in np.bincount(arm_R, minlength=arms)),
                dominated=not kept,
                **dict(numbers[place]),
            )
            for place, (alpha, arm_R, kept) in enumerate(
                zip(ALPHAS, arm_AR, non_dominated(lift_P2[learned]), strict=True)
            )
        ),
        arms=tuple(
            ArmPoint(arm=arm, dominated=not kept, **dict(numbers[static[arm]]))
            for arm, kept in enumerate(non_dominated(lift_P2[static]))
        ),
        hypervolume=estimated(area, area_B),
        arms_hypervolume=estimated(static_area, static_area_B),
        hypervolume_gain=estimated(area - static_area, area_B - static_area_B),
    )


def _areas(lift_P2: Float64s, lift_BP2: Float64s, family_P: Int64s) -> tuple[float, Float64s]:
    # A resample may have none of the few requests that tell of a policy: there it reaches nothing.
    known_BP2 = np.nan_to_num(lift_BP2, nan=-1.0)
    area, *resampled = (hypervolume(lifts[family_P], PRODUCTION_LIFT_2) for lifts in (lift_P2, *known_BP2))
    return area, np.array(resampled)
