"""What the comparison of policies found, as the JSON file that its page is made of."""

from experiments.policy.world import WorldConfig
from experiments.report import Machine, WrittenReport
from unipinrec.config import Config
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.estimators import Estimator
from unipinrec.models.policy.config import PolicyTraining

Pair = tuple[float, float]
"""A number of each reward."""


class OperatingPoint(Config):
    """One policy of a family, picked by off-policy estimates on half of the held-out users."""

    name: str
    alpha: float
    lift: Pair
    """True lift over production, for the other half."""
    regret: float
    """Against the exact oracle at this alpha, for the other half."""
    static_regret: float
    """Of the best static arm at this alpha, for the other half."""


class Family(Config):
    """Policies among which one would choose: those of 25 alphas, or all static arms. All numbers are true."""

    name: str
    points: tuple[Pair, ...]
    """Mean rewards of every policy."""
    hypervolume: float
    """Over the worst static arm in each reward, as a share of the area up to the oracle's best of each."""
    beyond_production: float
    """Hypervolume over the production weights, in lifts."""
    regret: float
    """Mean over alphas."""
    regret_over_static: float
    """Over the mean regret of the best static arm of each alpha."""
    operating_points: tuple[OperatingPoint, ...] = ()
    seconds: float | None = None
    """Of the processor, in training and choosing."""


class Prediction(Config):
    """How well an estimator knows the true lifts of 25 alphas."""

    estimator: Estimator
    reward: str
    pearson: float
    error: float
    """Mean absolute difference of predicted and true lift."""


class RequestGroup(Config):
    """Some of the requests, and the policy's true regret there."""

    name: str
    share: float
    """Of all requests."""
    regret_over_static: float
    """Mean regret over alphas, over that of the static arms that are best in all requests."""


class Comparison(Config):
    """The learned policy against another family: paired over the same users, or, in a summary, over seeds."""

    other: str
    hypervolume: Estimate
    """Of the policy less the other's."""
    regret_ratio: Estimate
    """Mean regret of the policy over the other's."""


class SeedReport(Config):
    """One world, with its own logs and trainings."""

    seed: int
    training_requests: int
    training_users: int
    evaluation_requests: int
    evaluation_users: int
    production: Pair
    """True mean rewards of the production weights."""
    reference: Pair
    """Of hypervolumes: the worst static arm in each reward."""
    oracle: tuple[Pair, ...]
    """Mean rewards of the best arm of each request at every alpha."""
    families: tuple[Family, ...]
    """The learned policy first."""
    predicted: dict[str, tuple[Pair, ...]]
    """Lifts of 25 alphas by estimator."""
    true_lifts: tuple[Pair, ...]
    predictions: tuple[Prediction, ...]
    comparisons: tuple[Comparison, ...]
    """Intervals are over users."""
    groups: tuple[RequestGroup, ...]
    """By whether the state has an event of the same session."""
    partial: tuple[Family, ...] = ()
    """Policies that see parts of the state, the whole first."""

    def family(self, name: str) -> Family:
        """Return one family."""
        return next(family for family in (*self.families, *self.partial) if family.name == name)


class PolicyStudyReport(WrittenReport):
    """All worlds."""

    synthetic: bool = True
    quick: bool
    world: WorldConfig
    training: PolicyTraining
    alphas: tuple[float, ...]
    rewards: tuple[str, str]
    seeds: tuple[SeedReport, ...]
    skipped: tuple[str, ...]
    """What was left out, and why."""
    machine: Machine
    minutes: float | None
    """None where an earlier run had finished some worlds."""
