"""Whether two answers are the same, as far as the hardware promises it.

On a CPU an answer does not depend on its batch, bit for bit. A GPU's kernels sum in another order for another
shape: numbers differ in their last bits, and where two items tie but for those bits, either may come first or
just be left out. Another user's answer, which is what a stale slot would give, differs in nearly every item.

Shapes: K items, A actions, X numbers of an item: A probabilities and the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from unipinrec_client import RecommendResponse

from unipinrec.offline import OfflineAnswer


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far two answers to the same request may differ."""

    rounding: float = 0.0
    """Largest difference of a probability or score."""
    strangers: float = 0.0
    """Share of items that the other answer may lack, rounded up. 0: equal items in equal order."""

    def difference(self, found: "Answer", right: "Answer") -> str:
        """What sets them apart, in words; empty where nothing does."""
        if self.strangers == 0 and (found.items, found.origins) != (right.items, right.origins):
            return f"items {found.items} from {found.origins}, not {right.items} from {right.origins}"
        if len(found.items) != len(right.items):
            return f"{len(found.items)} items, not {len(right.items)}"
        places = {item: place for place, item in enumerate(right.items)}
        both = [(place, places[item]) for place, item in enumerate(found.items) if item in places]
        missing = len(found.items) - len(both)
        if missing > np.ceil(self.strangers * len(found.items)):
            return f"{missing} of {len(found.items)} items are others"
        if not both:
            return ""
        here, there = (list(column) for column in zip(*both, strict=True))
        apart = float(np.abs(found.number_KX[here] - right.number_KX[there]).max())
        return "" if apart <= self.rounding else f"probabilities or scores differ by {apart}"


EXACT = Likeness()
BATCHED_IN_FLOAT32 = Likeness(rounding=1e-4, strangers=0.05)
"""A GPU's answers that were computed in float32 in other company, or by a CPU."""
IN_BFLOAT16 = Likeness(rounding=0.03, strangers=0.3)
"""A GPU's answers in bfloat16 against offline float32. Emulated on a CPU, 80 users' probabilities differ by
.011 and items by 5 of 20 at most; those of two users in a row by .050 at least, and by 9 items on average."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's answer, best first."""

    items: list[int]
    number_KX: NDArray[np.float32]
    origins: list[int]

    @classmethod
    def offline(cls, answer: OfflineAnswer, item_ids_V: NDArray[np.int64]) -> "Answer":
        """What PyTorch recommends, as external ids."""
        items = item_ids_V[answer.item_row_K].tolist()
        number_KX = np.column_stack([answer.probability_KA, answer.score_K])
        return cls(items, number_KX, answer.origin_K.tolist())

    @classmethod
    def served(cls, response: RecommendResponse) -> "Answer":
        """What a client was told."""
        found = response.recommendations
        return cls(
            [item.item_id for item in found],
            np.array([(*item.action_probabilities, item.score) for item in found], np.float32),
            [item.retrieved_by for item in found],
        )


def assert_alike(
    found: Sequence[RecommendResponse], expected: Sequence[RecommendResponse], likeness: Likeness
) -> None:
    """Answers to the same requests; where keys and values came from may differ."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        difference = likeness.difference(Answer.served(one), Answer.served(other))
        assert not difference, f"request {number}: {difference}"
