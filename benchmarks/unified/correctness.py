"""Sampled answers against offline PyTorch: what is fast must be right.

Shapes: N events, K results, A actions.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.report import Correctness
from loadtest.answers import Answer, RecordedAnswer, differences_of
from unipinrec.arrays import Int64s
from unipinrec.data.history import rows_of
from unipinrec.models.unified.offline import OfflineRecommender

LEAST_CHECKED = 20
"""Answers of each stack that have to be compared."""

MOST_SEARCHED = 8
"""Answers of each stack whose items are sought by exact search too."""


class AnswerCheck:
    """Compares answers of one bundle, of each stack once."""

    def __init__(self, made: RandomBundle, tolerance: float, most: int) -> None:
        """`most`: answers of each stack that are compared, evenly over the run."""
        self._made = made
        self._offline = OfflineRecommender(made.load_model())
        self._tolerance = tolerance
        self._most = most
        self._checked: dict[str, int] = {}
        self._same_items: dict[str, float] = {}
        self._largest = 0.0
        self._wrong: list[str] = []

    def add(self, stack: str, answers: Sequence[RecordedAnswer]) -> None:
        """Compare the answers of a stack, unless it was there before; too few of them are a difference."""
        if stack in self._checked:
            return
        chosen = evenly(answers, self._most)
        self._checked[stack] = len(chosen)
        if len(chosen) < LEAST_CHECKED:
            self._wrong.append(
                f"{stack}: only {len(chosen)} answers to compare; allowed: {LEAST_CHECKED} or more"
            )
        for recorded in chosen:
            difference, told = self._compare(recorded)
            self._largest = max(self._largest, difference)
            self._wrong += [f"{stack}, user {recorded.history.user_id}: {what}" for what in told]
        shares = [self._same_share(recorded) for recorded in evenly(chosen, MOST_SEARCHED)]
        self._same_items[stack] = sum(shares) / max(len(shares), 1)

    def found(self) -> Correctness:
        """Return what was found so far."""
        return Correctness(
            tolerance=self._tolerance,
            checked=self._checked,
            largest_difference=self._largest,
            same_items=self._same_items,
            differences=tuple(self._wrong),
        )

    def _compare(self, recorded: RecordedAnswer) -> tuple[float, list[str]]:
        made, answer = self._made, recorded.answer
        row_K, request = rows_of(made.item_ids, answer.item_id_K), made.offline_request(recorded.history)
        (probability_KA,) = self._offline.action_probabilities([request], [row_K])
        expected = made.expected(answer, probability_KA.numpy())
        return compare(answer, expected, recorded.history.item_id_N, made.num_results, self._tolerance)

    def _same_share(self, recorded: RecordedAnswer) -> float:
        made = self._made
        request, defaults = made.offline_request(recorded.history), made.manifest.defaults
        (found,) = self._offline.recommend([request], made.num_results, defaults)
        return float(np.isin(recorded.answer.item_id_K, made.item_ids[found.item_row_K]).mean())


def compare(
    answer: Answer, expected: Answer, seen_item_id_N: Int64s, num_results: int, tolerance: float
) -> tuple[float, list[str]]:
    """Return the largest difference of a probability or score from what is expected of the same items, and
    what is wrong with an answer, which may hold no item of the history."""
    largest, wrong = differences_of(answer, expected, tolerance)
    if answer.bundle_id != expected.bundle_id:
        wrong.append(f"BUNDLE_ID is {answer.bundle_id}; allowed: {expected.bundle_id}")
    different = len(np.unique(answer.item_id_K))
    if different != num_results:
        wrong.append(f"{different} different items; allowed: {num_results}")
    seen = np.intersect1d(answer.item_id_K, seen_item_id_N)
    if len(seen):
        wrong.append(f"item {seen[0]} is in the history; allowed: other items")
    if (np.diff(answer.score_K) > 0).any():
        wrong.append("SCORES rise; allowed: sorted, highest first")
    return largest, wrong


def evenly(answers: Sequence[RecordedAnswer], most: int) -> list[RecordedAnswer]:
    """Return at most so many of them, from the first to the last."""
    places = np.unique(np.linspace(0, len(answers) - 1, min(most, len(answers))).round().astype(int))
    return [answers[place] for place in places]
