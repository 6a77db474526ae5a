"""A policy's card as small as one can be."""

from unipinrec.data.arms import Arms, WeightRange
from unipinrec.models.policy.card import Alphas, PolicyCard

ARMS = Arms(
    actions=("click", "save", "hide"),
    production=(1.0, 0.5, 0.0),
    varied=(WeightRange(action="click", low=0.5, high=2.0), WeightRange(action="save", low=0.0, high=1.0)),
)
CHOSEN = Alphas(default=0.5, cohorts={"core": 0.25})


def policy_card(policy: str = "a") -> PolicyCard:
    """The card of the policy whose fingerprint repeats the letter `policy`."""
    return PolicyCard(
        fingerprint=policy * 64,
        synthetic=True,
        arms=ARMS,
        rewards=("click", "save"),
        cohorts=("core", "casual", "rest"),
        chosen=CHOSEN,
    )
