"""Which operating point a card says, if its guardrails hold."""

from collections.abc import Mapping
from dataclasses import dataclass

from unipinrec.models.policy.card import Alphas, Candidate, Guardrail, Interval, Sweep
from unipinrec.models.policy.sweep import ASKED, BY_COHORT, KNEE, LEAN_FIRST, LEAN_SECOND, MIN_HITS

LIFT = "lift:"
HITS = "hits"
EFFECTIVE = "effective_requests"

_REASONS = {
    LEAN_FIRST: "of the alphas that nothing beats, the one with the most {0}",
    KNEE: "of the alphas that nothing beats, the one farthest above the line between the two ends",
    LEAN_SECOND: "of the alphas that nothing beats, the one with the most {1}",
    ASKED: "it was asked for",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a card says of the operating point."""

    chosen: Alphas | None
    why: str
    guardrails: tuple[Guardrail, ...]


def default_limits(rewards: tuple[str, str]) -> dict[str, float]:
    """Return the limits of all guardrails by name."""
    return {**{LIFT + reward: -0.02 for reward in rewards}, HITS: 100.0, EFFECTIVE: 100.0}


def find_candidate(swept: Sweep, *, point: str, alpha: float | None, by_cohort: bool) -> Candidate:
    """Return the operating point of that name, or of the alpha that was asked for.

    Raises `ValueError` if the sweep has none of the name.
    """
    name = ASKED if alpha is not None else point + BY_COHORT * by_cohort
    found = {candidate.name: candidate for candidate in swept.candidates}
    if name not in found:
        large = ", ".join(swept.cohorts) or "none"
        raise ValueError(
            f"operating point is {name}; allowed: {', '.join(found)} (cohorts with {MIN_HITS} requests of "
            f"every arm in each half of the users: {large})"
        )
    return found[name]


def choose(candidate: Candidate, rewards: tuple[str, str], limits: Mapping[str, float]) -> Choice:
    """Return the choice of an operating point, or of the production weights if a guardrail fails.

    Raises `ValueError` if a limit has another name than those of `default_limits`.
    """
    found = {
        LIFT + rewards[0]: candidate.first.lift.low,
        LIFT + rewards[1]: candidate.second.lift.low,
        HITS: candidate.hits,
        EFFECTIVE: candidate.effective_requests,
    }
    unknown = sorted(set(limits) - set(found))
    if unknown:
        raise ValueError(f"guardrail is {unknown[0]}; allowed: {', '.join(found)}")
    guardrails = tuple(
        Guardrail(name=name, limit=limit, value=found[name], passed=found[name] >= limit)
        for name, limit in limits.items()
    )
    failed = [guardrail for guardrail in guardrails if not guardrail.passed]
    told = "; ".join(
        f"{reward} {told_lift(numbers.lift)}"
        for reward, numbers in zip(rewards, (candidate.first, candidate.second), strict=True)
    )
    if failed:
        what = ", ".join(rail.name for rail in failed)
        why = f"Production weights, since {candidate.name} ({told_alphas(candidate.alphas)}) fails {what}."
        return Choice(None, f"{why} Lifts over production: {told}.", guardrails)
    point = candidate.name.removesuffix(BY_COHORT)
    where = ", in each cohort" if point != candidate.name else ""
    half = "" if point == ASKED else f"on one half of the users{where}, "
    reason = f"{half}{_REASONS[point].format(*rewards)}"
    why = f"{candidate.name} ({told_alphas(candidate.alphas)}): {reason}."
    return Choice(candidate.alphas, f"{why} Lifts over production on the other half: {told}.", guardrails)


def told_alphas(alphas: Alphas) -> str:
    """Return alphas as people read them."""
    own = [f"{name} {alpha:.3g}" for name, alpha in alphas.cohorts.items()]
    return ", ".join([f"alpha {alphas.default:.3g}", *own])


def told_rail(rail: Guardrail) -> str:
    """Return what a guardrail found and its limit, lifts in percent."""
    form = "+.2%" if rail.name.startswith(LIFT) else ",.0f"
    return f"{rail.value:{form}}, at least {rail.limit:{form}}"


def told_lift(lift: Interval) -> str:
    """Return a lift and its interval in percent."""
    return f"{lift.value:+.2%} ({lift.low:+.2%} to {lift.high:+.2%})"
