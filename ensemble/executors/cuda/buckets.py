"""The few shapes that batches are padded to, so that each can be compiled and captured beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from unipinrec.models.common.slot_attention import BLOCK

BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One shape."""

    batch: int
    """Rows."""
    size: int
    """Tokens of each row: new positions of a history, or candidates."""


class Buckets:
    """All shapes of one function."""

    def __init__(self, sizes: Sequence[int], batches: Sequence[int] = BATCHES) -> None:
        self._sizes = sorted(set(sizes))
        self._batches = sorted(set(batches))

    def largest_first(self) -> list[Bucket]:
        """Return every shape. What the largest needs of the graphs' shared memory then serves all others."""
        return [Bucket(batch, size) for size in self._sizes[::-1] for batch in self._batches[::-1]]

    def split(self, sizes: Sequence[int]) -> list[tuple[Bucket, list[int]]]:
        """Return rows of so many tokens as batches: their shape, and the places of their rows.

        Rows of different sizes do not share a batch: a short continuation would pay for a whole history.

        Raises:
            ValueError: a row has more tokens than the largest shape.
        """
        fitting = [self._fit(size) for size in sizes]
        by_size = sorted(range(len(sizes)), key=lambda place: fitting[place])
        batches = []
        for size, group in groupby(by_size, key=lambda place: fitting[place]):
            places = list(group)
            for first in range(0, len(places), self._batches[-1]):
                rows = places[first : first + self._batches[-1]]
                batch = next(batch for batch in self._batches if batch >= len(rows))
                batches.append((Bucket(batch, size), rows))
        return batches

    def _fit(self, size: int) -> int:
        for fitting in self._sizes:
            if size <= fitting:
                return fitting
        raise ValueError(f"a row has {size} tokens; allowed: 1 to {self._sizes[-1]}")


def history_sizes(max_positions: int) -> list[int]:
    """Return sizes of new positions: a few events of a returning user, more of them, and a whole window."""
    return [size for size in (16, 64, 256) if size < max_positions] + [max_positions]


def candidate_sizes(max_candidates: int) -> list[int]:
    """Return sizes of candidates: whole blocks of the kernel, doubling, and the most of a request."""
    sizes = [BLOCK]
    while sizes[-1] < max_candidates:
        sizes.append(2 * sizes[-1])
    return [*sizes[:-1], max_candidates]
