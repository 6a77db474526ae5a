"""Search of an index that cannot leave items out by itself: more are fetched, and those left out are dropped.

Shapes: Q query embeddings, E item width, X left-out items, F items fetched, K items wanted.
"""

from collections.abc import Callable

import numpy as np

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.index.item_search import NOTHING, NearestItems

Fetch = Callable[[Floats, int], Int64s]
"""Item rows [Q, F] of largest inner product, best first, from query embeddings [Q, E] and the number F;
negative where an approximate index finds fewer."""


class FetchingSearch:
    """Rows of the nearest items by an index of limited reach, and by another where that is too short."""

    def __init__(self, fetch: Fetch, most: int, beyond: NearestItems) -> None:
        """`fetch` gives `most` items or fewer; `beyond`, over the same items, answers what needs more."""
        self._fetch = fetch
        self._most = most
        self._beyond = beyond
        self.items: int = beyond.items

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s, gone_G: Int64s = NOTHING) -> Int64s:
        """Return item rows [Q, K] as `ItemSearch.nearest` does; exact where both indexes are."""
        left_out_X = np.union1d(left_out_X, gone_G) if len(gone_G) else left_out_X
        wanted = min(count, self.items)
        reach = min(wanted + len(np.unique(left_out_X)), self.items)
        if reach > self._most:
            return self._beyond.nearest(query_QE, count, left_out_X)
        return keep_first(self._fetch(query_QE, reach), left_out_X, wanted)


def keep_first(item_row_QF: Int64s, left_out_X: Int64s, count: int) -> Int64s:
    """Return the first `count` of every row that are items and not left out, in their order. `PADDING` fills
    rows that have fewer; [Q, K] with K the smaller of `count` and F."""
    kept_QF = (item_row_QF >= 0) & ~np.isin(item_row_QF, left_out_X)
    first_QK = np.argsort(~kept_QF, axis=1, kind="stable")[:, :count]
    return np.where(
        np.take_along_axis(kept_QF, first_QK, axis=1),
        np.take_along_axis(item_row_QF, first_QK, axis=1),
        PADDING,
    )
