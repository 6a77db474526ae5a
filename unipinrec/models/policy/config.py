"""Sizes of the value network, its training, and which users are a cohort of their own."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from unipinrec.config import Config, Count, Probability, TrainingConfig
from unipinrec.data.arms import Arms
from unipinrec.models.config import ModelConfig

REST = "rest"
"""The cohort of users for whom no rule holds."""


class CohortRule(Config):
    """Users who act often enough; of several rules the first that holds counts (PRL-PUTS §3.3)."""

    name: Annotated[str, Field(pattern=r"[a-z][a-z0-9_]{0,31}")]
    action: str | None = None
    """Action that counts; None: any event."""
    days: Count = 4
    """Different days, counted back from the request in steps of 24 hours, with at least one such event."""
    window_days: Count = 28
    """Days before the request that are looked at."""


class PolicyConfig(ModelConfig):
    """Sizes of one value network, and what it chooses among. `max_history` is what the state reads."""

    layers: Count = 1
    width: Annotated[int, Field(ge=8)] = 32
    heads: Count = 2
    max_history: Count = 64
    """Latest events of a user in the state. At most `max_history - window_block + 1` of the unified model
    beside it, so that serving has all of them."""
    window_block: Count = 1
    max_candidates: Count = 1
    item_dim: Annotated[int, Field(ge=4)] = 16
    """Width of the policy's own item vectors. A log of exploration is too small to teach wide ones."""
    id_dim: Annotated[int, Field(ge=4)] = 16
    feedforward_ratio: Count = 2
    dropout: Probability = 0.1
    """Dropout in the transformer over events, in training only."""
    time_periods_s: Annotated[tuple[Count, ...], Field(max_length=16)] = (86_400, 7 * 86_400)
    """Periods in seconds of the sinusoids of the request's time: hour of the day, day of the week."""
    hidden: Count = 64
    """Width of the state vector and of the trunk that rewards share; an arm costs three times its square."""
    arm_dim: Count = 16
    """Width of an arm's embedding."""
    arms: Arms
    cohorts: tuple[CohortRule, ...] = ()

    @model_validator(mode="after")
    def _check_cohorts(self) -> Self:
        names = [rule.name for rule in self.cohorts]
        if len({*names, REST}) <= len(names):
            raise ValueError(f"cohorts is {', '.join(names)}; allowed: every name once, none {REST}")
        for rule in self.cohorts:
            if rule.action is not None and rule.action not in self.arms.actions:
                raise ValueError(
                    f"action of cohort {rule.name} is {rule.action}; allowed: {', '.join(self.arms.actions)}"
                )
        return self

    @property
    def cohort_names(self) -> tuple[str, ...]:
        """Return the names of all cohorts, `rest` last."""
        return (*(rule.name for rule in self.cohorts), REST)


class PolicyTraining(TrainingConfig):
    """The value network's training (PRL-PUTS §3.2 gives the loss and no numbers)."""

    epochs: Count = 4
    """Passes over the explored requests."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Requests in one step. Batch normalisation needs two, and is noisy with few."""
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """AdamW's decoupled weight decay. Arms differ by a few percent of noisy rewards, so that a smaller one
    lets the network learn the noise."""
    checkpoint_every: Count = 1
    evaluation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 1 / 3
    """Share of the explored requests, the latest ones, that training never sees (PRL-PUTS §3.4: 7 of 21
    days)."""
