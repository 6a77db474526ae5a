"""What can be configured about simulated requests: who explores, what is ranked, and how well."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from unipinrec.config import Config, Count
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.simulator.choice import ACTIONS
from unipinrec.simulator.config import Share, SpreadPerAction

SharePerAction = tuple[Share, Share, Share, Share]

SAVE_AND_SHARE = Arms(
    actions=ACTIONS,
    production=(1.0, 2.0, 0.0, 2.0),
    varied=(
        WeightRange(action="save", low=0.1, high=6.0),
        WeightRange(action="share", low=0.1, high=15.0),
    ),
)
"""Weights of actions that conflict: topics whose items are saved more have items that are shared less."""


class RankerConfig(Config):
    """A ranker that knows the world in part. Numbers are in the order of `ACTIONS`."""

    user_knowledge: SharePerAction = (0.5, 0.5, 0.5, 0.5)
    """Part of a user's own logits that its heads have; 1 leaves a policy less to learn."""
    noise: SpreadPerAction = (0.2, 0.2, 0.2, 0.2)
    """Standard deviation of the error of an item's logits, drawn for every candidate."""


class ExplorationConfig(Config):
    """One simulated exploration log. Equal configurations give equal logs of the same dataset."""

    arms: Arms = SAVE_AND_SHARE
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.0125
    """Share of the requests that draw their arm uniformly (PRL-PUTS §3.4)."""
    traffic: Count = 1
    """Requests of a user at each feedview of the dataset, each with candidates of its own."""
    production_share: Share = 1.0
    """Share of the other requests that is kept in the log; a small one saves time and space."""
    candidates: Count = 400
    """Items that are ranked for a request."""
    top_k: Count = 20
    """Items that are served."""
    ranker: RankerConfig = RankerConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds everything."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.arms.actions != ACTIONS:
            raise ValueError(
                f"actions is {', '.join(self.arms.actions)}; allowed: {', '.join(ACTIONS)}, the simulator's"
            )
        if self.top_k > self.candidates:
            raise ValueError(f"top_k is {self.top_k}; allowed: 1 to candidates {self.candidates}")
        return self
