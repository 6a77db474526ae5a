"""Answers of a server as lines of JSON, and how two recordings of the same requests differ.

Shapes: K results, A actions.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loadtest.histories import UserHistory


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's results, best first."""

    item_id_K: NDArray[np.int64]
    score_K: NDArray[np.float32]
    probability_KA: NDArray[np.float32]
    bundle_id: str = ""

    @classmethod
    def of_outputs(cls, outputs: Mapping[str, NDArray[Any] | None]) -> Self:
        """Return the first user's results among a server's output tensors, without padding."""
        item_id_K, score_K, probability_KA = (
            np.asarray(outputs[name])[0] for name in ("ITEM_IDS", "SCORES", "ACTION_PROBS")
        )
        found_K, bundle = item_id_K >= 0, outputs.get("BUNDLE_ID")
        bundle_id = "" if bundle is None else bundle[0, 0].decode()
        return cls(item_id_K[found_K], score_K[found_K], probability_KA[found_K], bundle_id)


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What a user sent, and what came back."""

    history: UserHistory
    answer: Answer

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of a traffic file's line for the history, with the answer beside them."""
        answer = self.answer
        fields = {
            "bundle_id": answer.bundle_id,
            "item_ids": answer.item_id_K.tolist(),
            "scores": answer.score_K.tolist(),
            "action_probs": answer.probability_KA.tolist(),
        }
        return self.history.as_fields() | {"answer": fields}

    @classmethod
    def of_fields(cls, fields: Any) -> Self:
        """Return what `as_fields` was made of. Raises `HistoriesError` or `KeyError` naming what is wrong."""
        answer = fields["answer"]
        return cls(
            UserHistory.of_fields(fields),
            Answer(
                np.array(answer["item_ids"], np.int64),
                np.array(answer["scores"], np.float32),
                np.array(answer["action_probs"], np.float32),
                answer["bundle_id"],
            ),
        )


def write_answers(path: Path, answers: Iterable[RecordedAnswer]) -> int:
    """Write a recording, each line as soon as it comes, and return the number of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for recorded in answers:
            file.write(json.dumps(recorded.as_fields(), separators=(",", ":")) + "\n")
            count += 1
    return count


def read_answers(path: Path) -> list[RecordedAnswer]:
    """Read what `write_answers` wrote."""
    with path.open(encoding="utf-8") as file:
        return [RecordedAnswer.of_fields(json.loads(line)) for line in file]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one recording differs from another of the same requests."""

    answers: int
    same_order: int
    """Answers with the same items in the same order. In all others but those told in `differences`, only
    items whose scores are within the tolerance of each other have changed places."""
    largest_difference: float
    """Largest difference of a score or a probability of the same item."""
    differences: tuple[str, ...]
    """A line for each answer that differs by more than the tolerance."""


def compare(
    recorded: Iterable[RecordedAnswer], earlier: Iterable[RecordedAnswer], tolerance: float
) -> Comparison:
    """Compare two recordings line by line.

    Raises:
        ValueError: they are not of the same requests in the same order.
    """
    same_order, largest, differences, answers = 0, 0.0, [], 0
    for number, (new, old) in enumerate(zip_longest(recorded, earlier), start=1):
        if new is None or old is None or new.history.as_fields() != old.history.as_fields():
            raise ValueError(f"request {number} differs; allowed: recordings of the same requests")
        answers += 1
        same_order += np.array_equal(new.answer.item_id_K, old.answer.item_id_K)
        difference, wrong = differences_of(new.answer, old.answer, tolerance)
        largest = max(largest, difference)
        differences += [f"request {number}, user {new.history.user_id}: {what}" for what in wrong]
    return Comparison(answers, same_order, largest, tuple(differences))


def differences_of(new: Answer, old: Answer, tolerance: float) -> tuple[float, list[str]]:
    """Return the largest difference of a score or probability of the items that both have, and what is beyond
    the tolerance."""
    if len(new.item_id_K) != len(old.item_id_K):
        return 0.0, [f"{len(new.item_id_K)} items; allowed: {len(old.item_id_K)}"]
    _, place_S, other_S = np.intersect1d(new.item_id_K, old.item_id_K, return_indices=True)
    differences = {
        "SCORES": new.score_K[place_S] - old.score_K[other_S],
        "ACTION_PROBS": new.probability_KA[place_S] - old.probability_KA[other_S],
    }
    wrong, largest = [], 0.0
    for name, away in differences.items():
        difference = float(np.abs(away).max(initial=0.0))
        largest = max(largest, difference)
        # Not `>`, which a NaN would pass.
        if not difference <= tolerance:
            wrong.append(f"{name} differs by {difference:.2g}; allowed: {tolerance:g}")
    moved_K = new.item_id_K != old.item_id_K
    apart = float(np.abs(new.score_K - old.score_K)[moved_K].max(initial=0.0))
    if not apart <= tolerance:
        wrong.append(f"an item is at the place of one whose score differs by {apart:.3g}")
    return largest, wrong
