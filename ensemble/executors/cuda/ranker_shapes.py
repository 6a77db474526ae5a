"""Which shapes a GPU's second ranker computes at, and which of them some requests need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from unipinrec.models.transact.config import SecondRankerConfig

BATCHES = (1, 4, 16)
MOST_CANDIDATES = 2_048
"""Candidates of one launch: with 192 tokens of width 64 each takes 50 KB a copy of its rows."""
FEWEST_ROWS, GROWTH = 1_024, 4


@dataclass(frozen=True, slots=True, order=True)
class RankingShape:
    """The most that a launch takes: requests, events (and as many impressions) of all, candidates of all."""

    batch: int
    rows: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Asked:
    """How much one request brings: the longer of its two sequences, and candidates."""

    rows: int
    candidates: int


class RankingShapes:
    """All shapes of a model."""

    def __init__(
        self,
        *,
        max_rows: int,
        max_candidates: int,
        batches: Sequence[int] = BATCHES,
        most: int = MOST_CANDIDATES,
    ) -> None:
        """A request has up to `max_rows` rows and, as a rule, up to `max_candidates` candidates; a launch has
        `most`."""
        self._shapes = [
            RankingShape(batch, rows, min(batch * max_candidates, most))
            for batch in sorted(set(batches))
            for rows in _row_sizes(batch * max_rows)
        ]
        self._largest = self._shapes[-1]

    @classmethod
    def of(cls, config: SecondRankerConfig, max_candidates: int) -> Self:
        """Return those of a model behind another one, which gives it up to `max_candidates`."""
        return cls(max_rows=max(config.max_events, config.max_impressions), max_candidates=max_candidates)

    def largest_first(self) -> list[RankingShape]:
        """Return every shape. What the largest needs of the graphs' shared memory then serves all others."""
        return self._shapes[::-1]

    def pieces(self, counts: Sequence[int]) -> list[tuple[int, slice]]:
        """Return so many candidates of each request in pieces that fit: the request's place, and which of its
        candidates. One that fits as a whole is not cut."""
        most = self._largest.candidates
        return [
            (place, slice(begin, min(begin + most, count)))
            for place, count in enumerate(counts)
            for begin in range(0, count, most)
        ]

    def split(self, asked: Sequence[Asked]) -> list[tuple[RankingShape, list[int]]]:
        """Return requests as batches, in their order: the smallest shape that fits, and their places.

        Raises `ValueError` if one alone fits none.
        """
        return [(self._fit([asked[place] for place in places]), places) for places in self._groups(asked)]

    def _groups(self, asked: Sequence[Asked]) -> Iterator[list[int]]:
        group: list[int] = []
        filled = 0
        for place, one in enumerate(asked):
            full = len(group) == self._largest.batch or filled + one.candidates > self._largest.candidates
            if group and full:
                yield group
                group, filled = [], 0
            group.append(place)
            filled += one.candidates
        if group:
            yield group

    def _fit(self, group: Sequence[Asked]) -> RankingShape:
        rows, candidates = sum(one.rows for one in group), sum(one.candidates for one in group)
        for shape in self._shapes:
            if len(group) <= shape.batch and rows <= shape.rows and candidates <= shape.candidates:
                return shape
        raise ValueError(
            f"requests have {rows} rows and {candidates} candidates; allowed: up to {self._largest.rows} and "
            f"{self._largest.candidates}"
        )


def _row_sizes(whole: int) -> list[int]:
    sizes = [FEWEST_ROWS]
    while sizes[-1] < whole:
        sizes.append(GROWTH * sizes[-1])
    return [*sizes[:-1], whole]
