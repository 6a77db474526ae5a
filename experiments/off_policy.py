"""How well off-policy estimates do on synthetic logs: errors, and how often intervals hold the truth.

Shapes: L logs, E estimators, Q quantities.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from experiments.bandit import LEARNED, PRODUCTION, Bandit, World
from experiments.report import Machine, WrittenReport
from unipinrec.arrays import Bools, Float64s
from unipinrec.config import Config
from unipinrec.evaluation.bootstrap import RESAMPLES, Estimate, interval, resampled_counts
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import evaluate

RESULTS = Path("benchmarks/results/policy/off-policy.json")
LOGS = 2_000
"""So many that a coverage of 95 % is measured to half a percent."""
WORLDS = (
    World(name="many users", users=4_000, requests=5, appetite=8.0, mood=1.0),
    World(name="heavy users", users=500, requests=40, appetite=8.0, mood=1.0),
    World(name="half predictable", users=4_000, requests=5, appetite=4.0, mood=1.0),
    World(name="hardly predictable", users=4_000, requests=5, appetite=1.0, mood=1.0),
)
QUANTITIES = ("value", "difference")

Track = Callable[[Iterable[int], str], Iterable[int]]


class Accuracy(Config):
    """One estimator of one quantity, over all logs."""

    estimator: Estimator
    quantity: str
    """`value` of the learned policy, or its `difference` from production."""
    truth: float
    bias: float
    deviation: float
    """Standard deviation over logs."""
    squared_error: float
    coverage: float
    """Share of the logs whose 95 % interval holds the truth."""
    width: float
    """Mean width of the interval."""
    error_over_hit: Estimate
    """Mean squared error over that of SNIPS, Reward@HIT, on the same logs."""


class WorldReport(Config):
    """One world."""

    world: World
    explained: float
    """Share of the variance of rewards under the learned policy that the model explains."""
    hits: float
    """Of the learned policy, in the mean over logs."""
    accuracies: tuple[Accuracy, ...]


class OffPolicyReport(WrittenReport):
    """What the study found."""

    synthetic: bool = True
    logs: int
    resamples: int = RESAMPLES
    seed: int
    machine: Machine
    worlds: tuple[WorldReport, ...]


def study(worlds: tuple[World, ...], logs: int, seed: int, track: Track) -> OffPolicyReport:
    """Return how every estimator does on `logs` logs of each world."""
    reports = tuple(_study(Bandit(world, seed), logs, track) for world in worlds)
    return OffPolicyReport(logs=logs, seed=seed, machine=Machine.here(), worlds=reports)


def _study(bandit: Bandit, logs: int, track: Track) -> WorldReport:
    found_LEQ: list[list[list[Estimate]]] = []
    hits = []
    for number in track(range(logs), bandit.world.name):
        log, policies = bandit.log(number)
        evaluation = evaluate(log, policies)
        hits.append(evaluation.hits_P[LEARNED])
        found_LEQ.append(
            [
                [evaluation.estimates(each)[LEARNED], evaluation.differences(each, PRODUCTION)[LEARNED]]
                for each in Estimator
            ]
        )
    learned, production = bandit.truths[[LEARNED, PRODUCTION]].tolist()
    truths = (learned, learned - production)
    number_LEQ3 = np.array([[[(q.mean, q.low, q.high) for q in e] for e in log] for log in found_LEQ])
    error_LEQ = number_LEQ3[..., 0] - truths
    hit_LQ = error_LEQ[:, list(Estimator).index(Estimator.SNIPS)]
    accuracies = [
        Accuracy(
            estimator=estimator,
            quantity=quantity,
            truth=truths[q],
            bias=error_LEQ[:, e, q].mean(),
            deviation=error_LEQ[:, e, q].std(),
            squared_error=np.square(error_LEQ[:, e, q]).mean(),
            coverage=_holds(number_LEQ3[:, e, q], truths[q]).mean(),
            width=(number_LEQ3[:, e, q, 2] - number_LEQ3[:, e, q, 1]).mean(),
            error_over_hit=_ratio(np.square(error_LEQ[:, e, q]), np.square(hit_LQ[:, q])),
        )
        for q, quantity in enumerate(QUANTITIES)
        for e, estimator in enumerate(Estimator)
    ]
    return WorldReport(
        world=bandit.world,
        explained=bandit.explained(),
        hits=float(np.mean(hits)),
        accuracies=tuple(accuracies),
    )


def _holds(numbers_L3: Float64s, truth: float) -> Bools:
    return (numbers_L3[:, 1] <= truth) & (truth <= numbers_L3[:, 2])


def _ratio(error_L: Float64s, hit_L: Float64s) -> Estimate:
    """Return the mean of one over that of the other, its interval over logs."""
    resampled = [
        (count_BL @ error_L) / (count_BL @ hit_L) for count_BL in resampled_counts(len(error_L), len(error_L))
    ]
    return Estimate(float(error_L.mean() / hit_L.mean()), *interval(np.concatenate(resampled)))
