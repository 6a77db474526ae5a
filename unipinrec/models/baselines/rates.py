"""Ranking by rates: how often this user acts on what is shown, times how often this item is acted on.

Shapes: S impressions (a user was shown an item), U users, V items of the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.evaluation.auc import auc
from unipinrec.evaluation.checks import check_at_least, check_indices, check_shape

STRENGTH = 10.0
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """Impressions, and which of them got the action."""

    user_S: Int64s
    item_row_S: Int64s
    label_S: Bools

    def __post_init__(self) -> None:
        check_shape("item rows", self.item_row_S, self.user_S.shape)
        check_shape("labels", self.label_S, self.user_S.shape)


class Rates:
    """Scores an impression by `user_rate * item_rate / global_rate`, for one action.

    The rates of users and items are pulled towards the global rate as if each had `strength` more impressions
    at that rate, (positives + strength * global) / (impressions + strength): the posterior mean of a beta
    prior. Who or what was never shown has the global rate. Fitting takes time linear in impressions, users
    and items, scoring in impressions.
    """

    def __init__(self, shown: Shown, users: int, items: int, strength: float = STRENGTH) -> None:
        """Counts the impressions; `strength` is in impressions.

        Raises `ValueError` if nothing got the action, the strength is not above 0, or an index is out of
        range.
        """
        if not strength > 0:
            raise ValueError(f"strength is {strength}; allowed: above 0")
        check_at_least("positives", int(np.count_nonzero(shown.label_S)), 1)
        self.global_rate = float(np.count_nonzero(shown.label_S) / len(shown.label_S))
        self.rate_U = self._rates("user", shown.user_S, shown.label_S, users, strength)
        self.rate_V = self._rates("item row", shown.item_row_S, shown.label_S, items, strength)

    def __call__(self, user_S: Int64s, item_row_S: Int64s) -> Float64s:
        """Scores [S], 0 or more: they order, and may exceed 1.

        Raises `ValueError` if an index is out of range, or shapes differ.
        """
        check_shape("item rows", item_row_S, user_S.shape)
        check_indices("user", user_S, len(self.rate_U))
        check_indices("item row", item_row_S, len(self.rate_V))
        score_S: Float64s = self.rate_U[user_S] * self.rate_V[item_row_S] / self.global_rate
        return score_S

    def _rates(self, name: str, index_S: Int64s, label_S: Bools, size: int, strength: float) -> Float64s:
        check_indices(name, index_S, size)
        positives = np.bincount(index_S, label_S, size)
        impressions = np.bincount(index_S, minlength=size)
        return (positives + strength * self.global_rate) / (impressions + strength)


def choose_strength(
    training: Shown, validation: Shown, users: int, items: int, strengths: Sequence[float] = STRENGTHS
) -> float:
    """Return the strength whose rates of `training` have the highest AUC on `validation`, or the first.

    Raises `ValueError` as `Rates` and `auc` do.
    """

    def quality(strength: float) -> float:
        score_S = Rates(training, users, items, strength)(validation.user_S, validation.item_row_S)
        return auc(score_S, validation.label_S)

    return max(strengths, key=quality)
