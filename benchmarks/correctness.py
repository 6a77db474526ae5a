"""Sampled answers against offline PyTorch: what is fast must be right.

Shapes: N events, K results, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Sample
from benchmarks.random_bundle import RandomBundle
from benchmarks.report import Correctness
from unipinrec.data.history import rows_of
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

LEAST_CHECKED = 20
"""Answers of each stack that have to be compared."""


MOST_SEARCHED = 8
"""Answers of each stack whose items are sought by exact search too."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer is compared with."""

    probability_KA: NDArray[np.float32]
    """Offline, of the items that were answered, in their order."""
    utility_A: NDArray[np.float32]
    history_item_id_N: NDArray[np.int64]
    num_results: int
    bundle_id: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one answer differs."""

    difference: float
    """The largest of a probability or score."""
    wrong: tuple[str, ...]
    """What is wrong with it; empty when nothing is."""


class CorrectnessCheck:
    """Compares the answers of one bundle."""

    def __init__(self, made: RandomBundle, tolerance: float, most: int) -> None:
        """`most`: answers of each stack that are compared, evenly over the run."""
        self._offline = OfflineRecommender(made.load_model())
        self._made = made
        self._tolerance = tolerance
        self._most = most

    def __call__(self, samples: Mapping[str, Sequence[Sample]]) -> Correctness:
        """Compare the samples of every stack; too few of them count as a difference."""
        wrong: list[str] = []
        largest, same_items, checked = 0.0, {}, {}
        for stack, kept in samples.items():
            chosen = evenly(kept, self._most)
            checked[stack] = len(chosen)
            if len(chosen) < LEAST_CHECKED:
                wrong.append(
                    f"{stack}: only {len(chosen)} answers to compare; allowed: {LEAST_CHECKED} or more"
                )
            for sample in chosen:
                found = compare(sample, self._expected(sample), self._tolerance)
                wrong += [f"{stack}, user {sample.visit.user_id}: {what}" for what in found.wrong]
                largest = max(largest, found.difference)
            shares = [self._found_share(sample) for sample in evenly(chosen, MOST_SEARCHED)]
            same_items[stack] = float(np.mean(shares)) if shares else 0.0
        return Correctness(
            tolerance=self._tolerance,
            checked=checked,
            largest_difference=largest,
            same_items=same_items,
            differences=tuple(wrong),
        )

    def _expected(self, sample: Sample) -> Expected:
        made = self._made
        row_K = rows_of(made.item_ids, sample.answer.item_id_K)
        (probability_KA,) = self._offline.action_probabilities([_request(sample)], [row_K])
        return Expected(
            probability_KA.numpy(),
            np.array(made.manifest.defaults.utility_weights, np.float32),
            made.item_ids[sample.visit.history.item_row_N],
            made.num_results,
            made.manifest.bundle_id,
        )

    def _found_share(self, sample: Sample) -> float:
        """Share of the results that exact search returns too."""
        made = self._made
        (offline,) = self._offline.recommend([_request(sample)], made.num_results, made.manifest.defaults)
        return float(np.isin(sample.answer.item_id_K, made.item_ids[offline.item_row_K]).mean())


def _request(sample: Sample) -> OfflineRequest:
    return OfflineRequest(history=sample.visit.history, request_time=sample.visit.request_time)


def compare(sample: Sample, expected: Expected, tolerance: float) -> Comparison:
    """Hold one answer against what offline PyTorch says of the same items."""
    answer, wrong = sample.answer, []
    if answer.bundle_id != expected.bundle_id:
        wrong.append(f"BUNDLE_ID is {answer.bundle_id}; allowed: {expected.bundle_id}")
    if len(np.unique(answer.item_id_K)) != expected.num_results:
        wrong.append(f"{len(np.unique(answer.item_id_K))} different items; allowed: {expected.num_results}")
    seen = np.intersect1d(answer.item_id_K, expected.history_item_id_N)
    if len(seen):
        wrong.append(f"item {seen[0]} is in the history; allowed: other items")
    if (np.diff(answer.score_K) > 0).any():
        wrong.append("SCORES rise; allowed: sorted, highest first")
    score_K = (expected.probability_KA * expected.utility_A).sum(axis=1)
    worst = 0.0
    for name, found, right in (
        ("ACTION_PROBS", answer.probability_KA, expected.probability_KA),
        ("SCORES", answer.score_K, score_K),
    ):
        difference = float(np.abs(found - right).max(initial=0.0))
        worst = max(worst, difference)
        # Not `>`, which a NaN would pass.
        if not difference <= tolerance:
            wrong.append(f"{name} differs by {difference:.2g}; allowed: {tolerance:g}")
    return Comparison(worst, tuple(wrong))


def evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many of them, from the first to the last."""
    places = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int))
    return [samples[place] for place in places]
