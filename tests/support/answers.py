"""Whether two answers to the same request are the same, as far as docs/client.md promises it.

Kernels sum in another order for another batch, another prefix and another processor, so numbers differ in
their last bits. Where two items tie but for those bits, either may come first in a ranking, or be the one
that is still retrieved. Another user's answer, which is what a stale slot would give, differs in nearly
every item.

Shapes: K items, A actions, X numbers of an item: A probabilities, those of the first of two rankers, and the
score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from unipinrec_client import RecommendResponse

from tests.conftest import Exported
from unipinrec.bundle import read_manifest
from unipinrec.models.unified.offline import OfflineAnswer, OfflineRecommender, OfflineRequest


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far two answers to the same request may differ."""

    rounding: float
    """Largest difference of a probability or score."""
    strangers: float
    """Share of items, rounded up, that the other answer may lack: those whose similarity ties at the edge of
    what is retrieved."""
    origins: bool = False
    """Whether an item that another query embedding found counts as lacking."""

    def difference(self, found: "Answer", right: "Answer") -> str:
        """What sets them apart, in words; empty where nothing does."""
        return self.differences([found], [right])

    def differences(self, found: "Sequence[Answer]", right: "Sequence[Answer]") -> str:
        """The same of answers to several requests, of whose items together `strangers` is the share."""
        missing = 0
        for request, (answer, wanted) in enumerate(zip(found, right, strict=True)):
            if len(answer.items) != len(wanted.items):
                return f"request {request}: {len(answer.items)} items, not {len(wanted.items)}"
            # Numbers within rounding, each list in the order of its own scores: equal order but for ties.
            if difference := answer.disorder() or self._apart(answer, wanted):
                return f"request {request}: {difference}"
            missing += len(self._named(answer) - self._named(wanted))
        total = sum(len(answer.items) for answer in found)
        if missing > np.ceil(self.strangers * total):
            return f"{missing} of {total} items are others"
        return ""

    def _named(self, answer: "Answer") -> set[tuple[int, int]]:
        origins = answer.origins if self.origins else [0] * len(answer.items)
        return set(zip(answer.items, origins, strict=True))

    def _apart(self, found: "Answer", right: "Answer") -> str:
        places = {item: place for place, item in enumerate(right.items)}
        both = [(place, places[item]) for place, item in enumerate(found.items) if item in places]
        if not both:
            return ""
        here, there = (list(column) for column in zip(*both, strict=True))
        apart = float(np.abs(found.number_KX[here] - right.number_KX[there]).max())
        return "" if apart <= self.rounding else f"probabilities or scores differ by {apart}"


PROMISED = Likeness(rounding=1e-5, strangers=0.001, origins=True)
"""What docs/client.md promises of answers that are computed in float32 on CPUs."""
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

    def disorder(self) -> str:
        """What is wrong with the order, by score and then by item id; empty where nothing is."""
        score_K = self.number_KX[:, -1]
        order = np.lexsort((np.array(self.items, np.int64), -score_K))
        return "" if (order == np.arange(len(order))).all() else f"items {self.items} are not in order"

    @classmethod
    def offline(cls, answer: OfflineAnswer, item_ids_V: NDArray[np.int64]) -> "Answer":
        """What PyTorch recommends, as external ids."""
        items = item_ids_V[answer.item_row_K].tolist()
        number_KX = np.column_stack([answer.probability_KA, answer.score_K])
        return cls(items, number_KX, answer.origin_K.tolist())

    @classmethod
    def of_row(cls, tensors: "Mapping[str, NDArray[Any]]", row: int = 0) -> "Answer":
        """One user's part of output tensors, without the padding behind it."""
        count = int((tensors["ITEM_IDS"][row] != -1).sum())
        names = [name for name in ("ACTION_PROBS", "FIRST_ACTION_PROBS", "SCORES") if name in tensors]
        numbers = [tensors[name][row, :count] for name in names]
        items, origins = (tensors[name][row, :count].tolist() for name in ("ITEM_IDS", "RETRIEVED_BY"))
        return cls(items, np.column_stack(numbers), origins)

    @classmethod
    def served(cls, response: RecommendResponse) -> "Answer":
        """What a client was told."""
        found = response.recommendations
        return cls(
            [item.item_id for item in found],
            np.array(
                [
                    (*item.action_probabilities, *(item.first_action_probabilities or ()), item.score)
                    for item in found
                ],
                np.float32,
            ),
            [item.retrieved_by for item in found],
        )


def offline_answers(
    exported: Exported, requests: Sequence[OfflineRequest], num_results: int = 20
) -> list[Answer]:
    """What PyTorch recommends without a server, by the bundle's defaults."""
    defaults = read_manifest(exported.bundle).defaults
    answers = OfflineRecommender(exported.model).recommend(requests, num_results, defaults)
    return [Answer.offline(answer, exported.dataset.item_ids_V) for answer in answers]


def assert_alike(
    found: Sequence[RecommendResponse], expected: Sequence[RecommendResponse], likeness: Likeness
) -> None:
    """Answers to the same requests; where keys and values came from may differ."""
    answers = ([Answer.served(response) for response in responses] for responses in (found, expected))
    difference = likeness.differences(*answers)
    assert not difference, difference
