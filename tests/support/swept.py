"""A card with all its evidence, from a small bandit."""

from datetime import UTC, datetime
from functools import cache

from tests.support.bandit import COHORTS, bandit
from unipinrec.models.policy.card import Evidence, PolicyCard, Source, Sweep, Window
from unipinrec.models.policy.choice import choose, default_limits, find_candidate
from unipinrec.models.policy.config import PolicyTraining
from unipinrec.models.policy.sweep import KNEE, sweep

INFO = bandit(users=1, requests_each=1).held_out.log.info


@cache
def _sweep(alpha: float | None) -> Sweep:
    return sweep(bandit(users=400, requests_each=40).held_out, alpha=alpha, report=lambda _: None)


def swept_card(point: str = KNEE, *, by_cohort: bool = False, alpha: float | None = None) -> PolicyCard:
    """The card of an operating point, chosen whatever its guardrails say, of 16,000 requests."""
    swept, rewards = _sweep(alpha), INFO.rewards
    candidate = find_candidate(swept, point=point, alpha=alpha, by_cohort=by_cohort)
    choice = choose(candidate, rewards, dict.fromkeys(default_limits(rewards), -1.0))
    window = Window(first=1_700_000_000, last=1_700_600_000, requests=16_000, users=400)
    return PolicyCard(
        fingerprint="a" * 64,
        synthetic=True,
        arms=INFO.arms,
        rewards=rewards,
        cohorts=COHORTS,
        chosen=choice.chosen,
        why=choice.why,
        guardrails=choice.guardrails,
        evidence=Evidence(
            made_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            dataset=Source(name="bandit", sha256={"items": "b" * 64}),
            log=Source(name="bandit", sha256={"exploration": "c" * 64}),
            training=window,
            evaluation=window,
            training_config=PolicyTraining(),
            sweep=swept,
        ),
    )
