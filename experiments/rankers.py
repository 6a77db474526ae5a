"""Rankers against counting, one another, and themselves without one thing: paired areas by user.

Shapes: F feedviews, S shown items of all of them, A actions, G users with both labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from typing_extensions import override

from experiments.held_out import HeldOut
from experiments.report import Difference, Row, Section
from experiments.scores import Measured, areas_within, by_seed, current_rates_scores, rates_scores
from experiments.section import Question, Run
from experiments.variants import UNIFIED, Variant
from unipinrec.arrays import Bools, Float32s
from unipinrec.evaluation.auc import auc_difference, auc_estimate
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.models.registry import find_model
from unipinrec.models.transact.config import SecondRankerConfig

RATES = {
    "rates": "smoothed user rate x item rate",
    "current_rates": "the same, of users as they ask and with items' attributes",
}
BANDS = 3
"""Parts of the requests by the length of their history, equally many each."""
LEAST_POSITIVES = 20
"""With fewer, an action is not compared."""


def is_second_ranker(variant: Variant) -> bool:
    """Return whether a variant only ranks what another model found."""
    return issubclass(find_model(variant.spec).config, SecondRankerConfig)


class RankersCompared(Question):
    """AUC by length of history of every ranker, and paired differences of AUC and gAUC."""

    title = "Rankers"

    def __init__(self, held_out: HeldOut, variants: Sequence[Variant]) -> None:
        self._held_out, self._views = held_out, held_out.views
        rankers = [variant for variant in variants if variant.ranks and variant.most_seeds is None]
        second = [variant for variant in rankers if is_second_ranker(variant)]
        names = [variant.name for variant in variants]
        self.variants = (*(variant for variant in rankers if variant not in second), *second)
        self.ways = {variant.name: variant.what for variant in self.variants} | RATES
        against = list(RATES)
        self._pairs: list[tuple[str, str]] = []
        if UNIFIED in rankers:
            rivals = [variant.name for variant in rankers if variant not in (UNIFIED, *second)]
            self._pairs = [(UNIFIED.name, other) for other in (*RATES, *rivals)]
            against = [UNIFIED.name, *RATES]
        for variant in second:
            if variant.ablates is not None:
                self._pairs += [(variant.name, variant.ablates.name)] * (variant.ablates.name in names)
            else:
                self._pairs += [(variant.name, other) for other in against]
                against.append(variant.name)
        self.what = (
            f"AUC of {self._names[0]} by the number of events in a request's history, in {BANDS} parts with "
            f"equally many requests each. Differences of AUC and gAUC are paired by user or slate."
        )
        self.compared = ()

    @override
    def answers(self, recommenders: Mapping[str, Any]) -> Run:
        """Return areas of every ranker, and of every pair their difference, with the models of one seed."""
        views, split = self._views, self._held_out.split
        score_SA = {
            "rates": rates_scores(views, split),
            "current_rates": current_rates_scores(views, split),
            **{name: views.probabilities(recommenders[name]) for name in self.ways if name not in RATES},
        }
        run = {way: Measured({}, areas=self._areas(score_SA[way])) for way in self.ways}
        for a, b in self._pairs:
            run[_pair(a, b)] = Measured({}, areas=self._differences(score_SA[a], score_SA[b]))
        return run

    @override
    def section(self, runs: Sequence[Run]) -> Section:
        """Return means over seeds, also of the ends of intervals."""
        rows = [
            Row(
                model=way,
                what=what,
                metrics=Measured.mean([run[way] for run in runs]).estimates(),
                by_seed=by_seed([run[way] for run in runs]),
            )
            for way, what in self.ways.items()
        ]
        differences = [
            Difference(a=a, b=b, metric=metric, estimate=found)
            for a, b in self._pairs
            for metric, found in Measured.mean([run[_pair(a, b)] for run in runs]).areas.items()
        ]
        return Section(title=self.title, what=self.what, rows=tuple(rows), differences=tuple(differences))

    @property
    def _names(self) -> tuple[str, ...]:
        return self._views.dataset.info.actions

    @cached_property
    def _bands(self) -> dict[str, Bools]:
        """Which shown items belong to requests with so many events, [S] each."""
        events_F = np.array(
            [np.count_nonzero(request.history.actions_N) for request in self._views.requests()]
        )
        ends = np.quantile(events_F, np.linspace(0, 1, BANDS + 1)).astype(np.int64)
        events_S = np.repeat(events_F, np.diff(self._views.offsets))
        found = {}
        for band, (low, high) in enumerate(pairwise(ends)):
            begin = low + (band > 0)
            found[f"{begin:,} to {high:,} events"] = (events_S >= begin) & (events_S <= high)
        return found

    def _compared_actions(self) -> Iterator[tuple[int, str]]:
        for action, name in enumerate(self._names):
            label_S = self._views.labels[:, action]
            if LEAST_POSITIVES <= label_S.sum() < len(label_S):
                yield action, name

    def _parts(self) -> Iterator[tuple[str, Bools]]:
        """The first action in each band where it occurs and does not always, with its name."""
        for band, in_band_S in self._bands.items():
            label_X = self._views.labels[in_band_S, 0]
            if label_X.any() and not label_X.all():
                yield f"auc {self._names[0]}, {band}", in_band_S

    def _areas(self, score_SA: Float32s) -> dict[str, Estimate]:
        label_S, user_S = self._views.labels[:, 0], self._views.users_of_items
        return {
            name: auc_estimate(score_SA[part_S, 0], label_S[part_S], user_S[part_S])
            for name, part_S in self._parts()
        }

    def _differences(self, a_SA: Float32s, b_SA: Float32s) -> dict[str, Estimate]:
        label_SA, user_S = self._views.labels, self._views.users_of_items
        found = {}
        for action, name in self._compared_actions():
            a_S, b_S, label_S = a_SA[:, action], b_SA[:, action], label_SA[:, action]
            found[f"auc {name}"] = auc_difference(a_S, b_S, label_S, user_S)
            within = areas_within(self._views, a_S, label_S, b_S)
            found.update({f"{kind} {name}": gap for kind, gap in within.items()})
        for name, part_S in self._parts():
            found[name] = auc_difference(
                a_SA[part_S, 0], b_SA[part_S, 0], label_SA[part_S, 0], user_S[part_S]
            )
        return found


def _pair(a: str, b: str) -> str:
    return f"{a} - {b}"
