"""`policy-card.json`: what a policy was learned from, what it promises, and which operating point it has."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from unipinrec.config import Config
from unipinrec.data.arms import Arms

CARD = "policy-card.json"

Alpha = Annotated[float, Field(ge=0.0, le=1.0)]


class Alphas(Config):
    """Operating points: an arm is chosen for `alpha x Q(second reward) + (1 - alpha) x Q(first reward)`
    (PRL-PUTS §3.3)."""

    default: Alpha
    cohorts: dict[str, Alpha] = Field(default_factory=dict)
    """By cohort; those that are left out have the default."""

    def of(self, cohort: str) -> float:
        """Return the alpha of a cohort."""
        return self.cohorts.get(cohort, self.default)


class PolicyCard(Config):
    """The card that a bundle carries beside the policy's graph."""

    fingerprint: Annotated[str, Field(pattern=r"[0-9a-f]{64}")]
    """SHA-256 of the trained weights and their configuration: which policy the card is about."""
    synthetic: bool
    """Whether the log was simulated."""
    arms: Arms
    rewards: tuple[str, str]
    cohorts: tuple[str, ...]
    """Names, in the order in which rules are tried."""
    chosen: Alphas | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = sorted(set(self.chosen.cohorts if self.chosen else ()) - set(self.cohorts))
        if unknown:
            raise ValueError(f"cohort is {unknown[0]}; allowed: {', '.join(self.cohorts)}")
        return self
