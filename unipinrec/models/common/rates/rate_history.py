"""Rates as they were at any time of the training part, so that no example's labels are in its own features.

Shapes: S training rows, C candidates, R requests, V items, A actions, X of what is counted, G groups of rows
(items, or attributes), T distinct times, L attributes of all candidates one after another.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.sequences import Limits, RequestSequences
from unipinrec.models.common.rates.base_rates import (
    NEVER,
    BaseRates,
    Counts,
    ItemFeatures,
    UserFeatures,
    log_odds,
    shown_feature,
    user_features,
)

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Rows at the prior's rate that are tried."""
WITHOUT_IMPRESSIONS = 1e9
"""The strength where nothing is known of what was shown in vain: every rate is the prior's."""
SWEEPS = 2
"""Times that each kind's strengths are chosen, given the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRows:
    """Training rows: what was shown to whom, when its feedview began, and what was done."""

    item_row_S: Int64s
    time_S: Int64s
    """Unix seconds."""
    actions_S: Int64s


class CountsBefore:
    """How often each group of rows was shown and acted on before any time."""

    def __init__(
        self, group_S: Int64s, time_S: Int64s, actions_S: Int64s, *, groups: int, actions: int
    ) -> None:
        self._time_T = np.unique(time_S)
        key_S = self._key(group_S, time_S)
        order_S = np.argsort(key_S, kind="stable")
        self._key_S = key_S[order_S]
        self._begin_G = np.searchsorted(self._key_S, np.arange(groups) * (len(self._time_T) + 1))
        self._acted_S1A = np.zeros((len(key_S) + 1, actions), np.int32)
        for action in range(actions):
            np.cumsum(actions_S[order_S] >> action & 1, out=self._acted_S1A[1:, action])

    def at(self, group_X: Int64s, time_X: Int64s) -> Counts:
        """Return counts of rows strictly before each time."""
        begin_X = self._begin_G[group_X]
        end_X = np.searchsorted(self._key_S, self._key(group_X, time_X))
        acted_XA = self._acted_S1A[end_X] - self._acted_S1A[begin_X]
        return Counts(end_X - begin_X, acted_XA.astype(np.int64))

    def _key(self, group: Int64s, time: Int64s) -> Int64s:
        """Groups in order, and times in order within a group; no row has the last of a group's numbers."""
        key: Int64s = group * (len(self._time_T) + 1) + np.searchsorted(self._time_T, time)
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Rows by which rates are pulled: users and attributes to the global one, items to their attributes."""

    user_A: Float32s
    item_A: Float32s
    attribute_A: Float32s

    @classmethod
    def equal(cls, strength: float, actions: int) -> Self:
        """Return the same strength for everything."""
        strength_A = np.full(actions, strength, np.float32)
        return cls(user_A=strength_A, item_A=strength_A, attribute_A=strength_A)


class RateHistory:
    """Rates of items and their attributes before any time, out of training rows."""

    def __init__(self, rows: ShownRows, attributes_VX: Int64s, global_A: Float64s) -> None:
        """Count the rows; `global_A` are the rates of actions in all that is shown, above 0 and below 1."""
        self.prior_A = np.log(global_A / (1 - global_A)).astype(np.float32)
        self.strengths = Strengths.equal(10.0, len(global_A))
        self._attributes_VX = attributes_VX
        actions, items = len(global_A), len(attributes_VX)
        self._items = CountsBefore(
            rows.item_row_S, rows.time_S, rows.actions_S, groups=items, actions=actions
        )
        row_L, attribute_L = self._attributes(rows.item_row_S)
        self._attribute_counts = CountsBefore(
            attribute_L,
            rows.time_S[row_L],
            rows.actions_S[row_L],
            groups=int(attributes_VX.max(initial=-1)) + 1,
            actions=actions,
        )

    def items(self, item_row_C: Int64s, time_C: Int64s) -> ItemFeatures:
        """Return what was known of candidates before the time of each."""
        return self._known(item_row_C, time_C).features(self.prior_A, self.strengths)

    def users(self, sequences: RequestSequences, limits: Limits) -> UserFeatures:
        """Return what is known of users when they ask, out of the request's own sequences."""
        return user_features(sequences, limits, self.prior_A, self.strengths.user_A)

    def frozen(self) -> BaseRates:
        """Return the rates at the end of training."""
        items = len(self._attributes_VX)
        known = self.items(np.arange(items), np.full(items, NEVER))
        return BaseRates(
            prior_A=self.prior_A,
            user_strength_A=self.strengths.user_A,
            item_rate_VA=known.item_rate_CA,
            item_shown_V=known.item_shown_C,
            attribute_rate_VA=known.attribute_rate_CA,
            attribute_shown_V=known.attribute_shown_C,
        )

    def choose_strengths(self, judged: "Judged") -> None:
        """Take those of `STRENGTHS` that make the labels most likely, for each action and kind.

        Each is chosen given the others. What is judged counts with what was known before it alone.
        """
        known = self._known(judged.item_row_C, judged.time_C)
        for _, kind in product(range(SWEEPS), ("attribute_A", "item_A", "user_A")):
            loss_KA = np.stack([self._loss(judged, known, kind, strength) for strength in STRENGTHS])
            best_A = np.array(STRENGTHS, np.float32)[loss_KA.argmin(axis=0)]
            self.strengths = replace(self.strengths, **{kind: best_A})

    def _loss(self, judged: "Judged", known: "_Known", kind: str, strength: float) -> Float64s:
        """Mean log loss of the sum of log-odds, [A]."""
        tried = replace(self.strengths, **{kind: np.full_like(self.prior_A, strength)})
        features = known.features(self.prior_A, tried)
        user_RA = log_odds(judged.user_counts, self.prior_A.astype(np.float64), tried.user_A)
        logit_CA = user_RA[judged.request_C] + features.item_rate_CA + features.attribute_rate_CA
        return (np.logaddexp(0, logit_CA) - judged.label_CA * logit_CA).mean(axis=0)

    def _known(self, item_row_C: Int64s, time_C: Int64s) -> "_Known":
        candidate_L, attribute_L = self._attributes(item_row_C)
        return _Known(
            self._items.at(item_row_C, time_C),
            self._attribute_counts.at(attribute_L, time_C[candidate_L]),
            candidate_L,
        )

    def _attributes(self, item_row_X: Int64s) -> tuple[Int64s, Int64s]:
        """Which of the rows, and which attribute, [L] each."""
        attributes_XX = self._attributes_VX[item_row_X]
        row_L, place_L = np.nonzero(attributes_XX >= 0)
        return row_L, attributes_XX[row_L, place_L]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Later training rows by which strengths are chosen."""

    item_row_C: Int64s
    time_C: Int64s
    request_C: Int64s
    label_CA: Bools
    user_counts: Counts
    """Of each request, [R]."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Counts of candidates and of their attributes before some times."""

    item: Counts
    attribute: Counts
    candidate_L: Int64s

    def features(self, prior_A: Float32s, strengths: Strengths) -> ItemFeatures:
        of_global_A = prior_A.astype(np.float64)
        rate_LA = log_odds(self.attribute, of_global_A, strengths.attribute_A) - of_global_A
        rate_CA = np.stack([self._mean(rate_L) for rate_L in rate_LA.T], axis=1)
        own_CA = log_odds(self.item, of_global_A + rate_CA, strengths.item_A) - of_global_A - rate_CA
        return ItemFeatures(
            own_CA.astype(np.float32),
            shown_feature(self.item),
            rate_CA.astype(np.float32),
            self._mean(shown_feature(self.attribute)).astype(np.float32),
        )

    def _mean(self, value_L: Float64s | Float32s) -> Float64s:
        """Over each candidate's attributes."""
        candidates = len(self.item.shown_X)
        count_C = np.bincount(self.candidate_L, minlength=candidates)
        total_C = np.bincount(self.candidate_L, value_L, minlength=candidates).astype(np.float64)
        return total_C / count_C.clip(min=1)
