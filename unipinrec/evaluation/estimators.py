"""Off-policy estimators: what a policy would have earned, from requests that were served by chance.

Each is a function of a few sums over the logged requests, so sums of users can be resampled in its place.

Shapes: R requests, K arms; ... whatever the sums are by: policies, users, resamples.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from unipinrec.arrays import AnyFloats, Float64s, Int64s


class Estimator(StrEnum):
    """Estimators of a policy's mean reward. In a request with logged arm a, reward r and propensity p, the
    policy's chance of a over p is the weight w, and a model expects q(a)."""

    IPS = "ips"
    """Mean of w r (Horvitz and Thompson 1952; Dudík et al. 2011, §2.2)."""
    SNIPS = "snips"
    """Sum of w r over sum of w (Swaminathan and Joachims 2015). With a deterministic policy and uniform
    propensities it is the mean reward of the hits: Reward@HIT (PRL-PUTS §3.4)."""
    DM = "dm"
    """Direct method: mean of q over the policy's arms (Dudík et al. 2011, §2.1)."""
    DR = "dr"
    """Doubly robust: DM plus the mean of w (r - q(a)) (Dudík et al. 2011, §3)."""
    SNDR = "sndr"
    """Self-normalised doubly robust: DM plus sum of w (r - q(a)) over sum of w."""


WITHOUT_MODEL = (Estimator.IPS, Estimator.SNIPS)


@dataclass(frozen=True, slots=True)
class Sums:
    """What the estimators need of some requests, each [...]."""

    requests: Float64s
    weight: Float64s
    """Of w."""
    rewarded: Float64s
    """Of w r."""
    expected: Float64s
    """Of q over the policy's arms; 0 without a model."""
    corrected: Float64s
    """Of w (r - q(a))."""

    def value(self, estimator: Estimator) -> Float64s:
        """Return the policy's mean reward as one estimator has it, [...]; nan where it divides by 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            match estimator:
                case Estimator.IPS:
                    return self.rewarded / self.requests
                case Estimator.SNIPS:
                    return self.rewarded / self.weight
                case Estimator.DM:
                    return self.expected / self.requests
                case Estimator.DR:
                    return (self.expected + self.corrected) / self.requests
                case Estimator.SNDR:
                    return self.expected / self.requests + self.corrected / self.weight


def chance_of(policy: Int64s | Float64s, arm_R: Int64s) -> Float64s:
    """Return the policy's chance of an arm in each request, [R]."""
    if policy.ndim == 1:
        return (policy == arm_R).astype(np.float64)
    return np.take_along_axis(policy, arm_R[:, None], axis=1)[:, 0].astype(np.float64)


def expected_under(policy: Int64s | Float64s, value_RK: AnyFloats) -> Float64s:
    """Return what a model expects of the policy in each request, [R]."""
    if policy.ndim == 1:
        return np.take_along_axis(value_RK, policy.astype(np.int64)[:, None], axis=1)[:, 0].astype(np.float64)
    return np.einsum("rk,rk->r", policy, value_RK, dtype=np.float64)
