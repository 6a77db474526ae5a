"""`policy-card.json`: what a policy was learned from, what it promises, and which operating point it has."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, FiniteFloat, model_validator

from unipinrec.config import Config, Count
from unipinrec.data.arms import Arms
from unipinrec.models.policy.config import PolicyTraining

CARD = "policy-card.json"

Alpha = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Alphas(Config):
    """Operating points: an arm is chosen for `alpha x Q(second reward) + (1 - alpha) x Q(first reward)`
    (PRL-PUTS §3.3)."""

    default: Alpha
    cohorts: dict[str, Alpha] = Field(default_factory=dict)
    """By cohort; those that are left out have the default."""

    def of(self, cohort: str) -> float:
        """Return the alpha of a cohort."""
        return self.cohorts.get(cohort, self.default)


class Interval(Config):
    """An estimate with its 95 % bootstrap interval; users are resampled."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class RewardNumbers(Config):
    """What one reward is, by request, where a policy chooses the weights."""

    estimate: Interval
    """By the estimator that the evidence names."""
    hit: Interval
    """Reward@HIT: mean reward of requests whose logged arm the policy would have chosen (PRL-PUTS §3.4)."""
    lift: Interval
    """Estimate over that of the production weights, less 1; both from the same resamples of users."""


class PolicyNumbers(Config):
    """One policy, judged on explored requests that it was not trained on."""

    first: RewardNumbers
    second: RewardNumbers
    hits: Count
    """Requests whose logged arm the policy would have chosen: all that is observed of it."""
    effective_requests: Annotated[FiniteFloat, Field(ge=1.0)]
    """Equally weighted requests that would tell as much: (sum of weights)^2 / sum of squared weights."""
    weights: tuple[FiniteFloat, FiniteFloat]
    """Means of the two varied weights over requests."""


class FrontierPoint(PolicyNumbers):
    """A policy among others of its family."""

    dominated: bool
    """Whether another one of the family is estimated to be at least as good in both rewards, and better in
    one."""


class AlphaPoint(FrontierPoint):
    """The policy of one alpha."""

    alpha: Alpha
    arm_shares: tuple[Share, ...]
    """Share of requests that get each arm."""


class ArmPoint(FrontierPoint):
    """The same arm for every request."""

    arm: Annotated[int, Field(ge=0)]


class Group(Config):
    """Explored requests of some users."""

    requests: Count
    users: Count


class Window(Group):
    """Explored requests of a time."""

    first: int
    """Unix seconds of the earliest one."""
    last: int


class Frontier(Group):
    """Everything that was judged on one group of requests."""

    alphas: tuple[AlphaPoint, ...]
    arms: tuple[ArmPoint, ...]
    hypervolume: Interval
    """Area, in lifts, above the production weights in both rewards that some alpha's policy dominates."""
    arms_hypervolume: Interval
    """That of the static arms."""
    hypervolume_gain: Interval
    """The difference, from the same resamples."""


class Candidate(PolicyNumbers):
    """An operating point that was chosen on one half of the users, with its numbers on the other half."""

    name: str
    """`lean-first`, `knee`, `lean-second`, or `alpha` for one that was asked for; `by cohort` behind it where
    each cohort has its own."""
    alphas: Alphas
    promised: tuple[FiniteFloat, FiniteFloat]
    """Lifts on the half that chose. They are too high on average: what chance favoured was chosen."""


class Source(Config):
    """A dataset or a log."""

    name: str
    sha256: dict[str, Sha256]
    """By table."""


class Sweep(Config):
    """What was judged and picked. All numbers are of the reporting half of the users, but for promises."""

    choosing: Group
    """The half of the users on which operating points were chosen."""
    everyone: Frontier
    cohorts: dict[str, Frontier]
    """By cohort; one with too few requests is left out and has the default alpha."""
    candidates: tuple[Candidate, ...]


class Evidence(Config):
    """What the numbers come from, and the numbers."""

    made_at: AwareDatetime
    dataset: Source
    log: Source
    training: Window
    evaluation: Window
    """Held-out requests of all users."""
    training_config: PolicyTraining
    estimator: Literal["SNDR"] = "SNDR"
    """Self-normalised doubly robust, whose model of rewards is the policy's own value network."""
    sweep: Sweep


class Guardrail(Config):
    """A number of the chosen operating point that must not be below a limit."""

    name: str
    """`lift:` and a reward, for the lower end of its lift; `hits`; `effective_requests`."""
    limit: FiniteFloat
    value: FiniteFloat
    passed: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.passed != (self.value >= self.limit):
            raise ValueError(f"{self.name} is {self.value}, limit {self.limit}, passed {self.passed}")
        return self


class PolicyCard(Config):
    """The card that a bundle carries beside the policy's graph."""

    format_version: Literal[1] = 1
    fingerprint: Sha256
    """SHA-256 of the trained weights and their configuration: which policy the card is about."""
    synthetic: bool
    """Whether the log was simulated."""
    arms: Arms
    rewards: tuple[str, str]
    """The first and the second: an arm is chosen for alpha x Q(second) + (1 - alpha) x Q(first)."""
    cohorts: tuple[str, ...]
    """Names, in the order in which rules are tried."""
    chosen: Alphas | None
    """The operating point. None: a guardrail failed, and every request gets the fallback."""
    why: str = ""
    """Why this one, in a sentence."""
    fallback: Literal["production"] = "production"
    """What a request gets whose arm is not chosen: the production weights in `arms`."""
    guardrails: tuple[Guardrail, ...] = ()
    evidence: Evidence | None = None
    """None: alphas that were set without a sweep."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = set(self.chosen.cohorts) if self.chosen else set()
        if self.evidence:
            sweep = self.evidence.sweep
            named = named.union(sweep.cohorts, *(c.alphas.cohorts for c in sweep.candidates))
        unknown = sorted(named - set(self.cohorts))
        if unknown:
            raise ValueError(f"cohort is {unknown[0]}; allowed: {', '.join(self.cohorts)}")
        failed = [guardrail.name for guardrail in self.guardrails if not guardrail.passed]
        if failed and self.chosen is not None:
            raise ValueError(f"guardrail {failed[0]} failed; allowed: null as chosen")
        return self
