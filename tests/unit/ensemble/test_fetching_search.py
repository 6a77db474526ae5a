"""Fetching more and dropping gives what brute force gives; a CPU index stands in a GPU's place."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.index.cuda.fetching_search import FetchingSearch, keep_first
from ensemble.index.item_search import ItemSearch
from tests.support.gpu_stand_in import brute_force

WIDTH = 6
NOTHING = np.empty(0, np.int64)

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


class Limited:
    """A flat index that takes no selector and gives `most` items or fewer, and what it was asked."""

    def __init__(self, vector_VE: Floats, most: int) -> None:
        self.index = faiss.IndexFlatIP(WIDTH)
        self.index.add(vector_VE)
        self.most = most
        self.counts: list[int] = []

    def fetch(self, query_QE: Floats, count: int) -> Int64s:
        assert 0 < count <= self.most
        self.counts.append(count)
        item_row_QF: Int64s = self.index.search(query_QE, count)[1]
        return item_row_QF

    def search(self) -> FetchingSearch:
        return FetchingSearch(self.fetch, self.most, ItemSearch(self.index))


def drawn(seed: int, items: int, queries: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(items, WIDTH)).astype(np.float32),
        random.normal(size=(queries, WIDTH)).astype(np.float32),
    )


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_it_finds_what_brute_force_finds_in_the_same_order(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 60), label="items")
    count = data.draw(st.integers(1, 80), label="count")
    most = data.draw(st.integers(1, 80), label="most")
    left_out = data.draw(st.lists(st.integers(0, items - 1), max_size=100), label="left out, some twice")
    vector_VE, query_QE = drawn(data.draw(st.integers(0, 2**32 - 1), label="seed"), items, queries=3)
    search = Limited(vector_VE, most).search()
    found_QK = search.nearest(query_QE, count, np.array(left_out, np.int64))
    assert found_QK.dtype == np.int64
    assert found_QK.tolist() == brute_force(vector_VE, query_QE, count, left_out)


@pytest.mark.parametrize("most", [1, 20, 100])
def test_nothing_is_found_when_everything_is_left_out(most: int) -> None:
    vector_VE, query_QE = drawn(1, items=20, queries=2)
    found_QK = Limited(vector_VE, most).search().nearest(query_QE, 5, np.arange(20))
    assert found_QK.tolist() == [[-1] * 5] * 2


def test_an_item_left_out_many_times_is_fetched_for_once() -> None:
    vector_VE, query_QE = drawn(2, items=50, queries=1)
    limited = Limited(vector_VE, most=10)
    limited.search().nearest(query_QE, 7, np.repeat([3, 4, 5], 100))
    assert limited.counts == [10]


@pytest.mark.parametrize(("left_out", "fetched"), [(5, [15]), (6, [])])
def test_the_other_index_answers_from_one_item_beyond_the_limit(left_out: int, fetched: list[int]) -> None:
    vector_VE, query_QE = drawn(3, items=50, queries=2)
    limited = Limited(vector_VE, most=15)
    rows = np.array(brute_force(vector_VE, query_QE, left_out, [])[0])
    found_QK = limited.search().nearest(query_QE, 10, rows)
    assert limited.counts == fetched
    assert found_QK.tolist() == brute_force(vector_VE, query_QE, 10, rows.tolist())


def test_no_more_than_all_items_are_fetched_however_many_are_asked_for() -> None:
    vector_VE, query_QE = drawn(4, items=12, queries=1)
    limited = Limited(vector_VE, most=12)
    found_QK = limited.search().nearest(query_QE, 5_000, np.array([1, 2]))
    assert limited.counts == [12]
    assert found_QK.tolist() == brute_force(vector_VE, query_QE, 5_000, [1, 2])


def test_gaps_that_an_approximate_index_leaves_come_last() -> None:
    item_row_QF = np.array([[7, -1, 3, 9, -1], [-1, -1, 3, -1, -1]])
    assert keep_first(item_row_QF, np.array([3]), 3).tolist() == [[7, 9, -1], [-1, -1, -1]]
    assert keep_first(item_row_QF, NOTHING, 2).tolist() == [[7, 3], [3, -1]]
