"""What people do with an item they see: four actions given taste, item and person.

Shapes: A actions; the axes before A are the caller's.
"""

import numpy as np

from unipinrec.arrays import AnyFloats, Int64s
from unipinrec.simulator.config import ChoiceConfig

ACTIONS = ("click", "save", "hide", "share")
CLICK, SAVE, HIDE, SHARE = range(len(ACTIONS))


def conditional_probabilities(
    affinity: AnyFloats, propensity_A: AnyFloats, choice: ChoiceConfig
) -> AnyFloats:
    """Return the probability of every action given that it is possible, [..., A].

    With taste t of the user u at that moment and latent vector z of the item v, both of length 1:

        affinity = t · z
        q(action) = sigmoid(c_action + a_action · affinity + item_v,action + user_u,action)

    A click is always possible, saving and sharing only after a click, hiding only without one. Apart from
    this the actions are independent. c and a are `ChoiceConfig.bias` and `ChoiceConfig.affinity_weight`;
    an item's click term is `popularity_effect` times its log popularity. Hiding has a negative a.

    Args:
        affinity: [...].
        propensity_A: the sum of the item's and the user's terms, [..., A].
        choice: c and a.
    """
    weight_A = np.asarray(choice.affinity_weight, propensity_A.dtype)
    logit_A = np.asarray(choice.bias, propensity_A.dtype) + weight_A * affinity[..., None] + propensity_A
    return 1 / (1 + np.exp(-logit_A))


def marginal_probabilities(conditional_A: AnyFloats) -> AnyFloats:
    """Return how likely a shown item gets each action: q(click), and the others times what they need."""
    click = conditional_A[..., CLICK]
    marginal_A = conditional_A * click[..., None]
    marginal_A[..., CLICK] = click
    marginal_A[..., HIDE] = conditional_A[..., HIDE] * (1 - click)
    return marginal_A


def draw_actions(conditional_A: AnyFloats, random: np.random.Generator) -> Int64s:
    """Return bitmasks of drawn actions, [...]; bit i is `ACTIONS[i]`."""
    done_A = random.random(conditional_A.shape) < conditional_A
    clicked = done_A[..., CLICK]
    done_A[..., SAVE] &= clicked
    done_A[..., SHARE] &= clicked
    done_A[..., HIDE] &= ~clicked
    return done_A @ (1 << np.arange(len(ACTIONS)))
