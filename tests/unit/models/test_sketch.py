"""The count-min sketch against exact counts."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unipinrec.models.common.sketch import CountMinSketch

streams = st.lists(st.lists(st.integers(0, 60), max_size=50), max_size=6)


@given(streams, st.integers(1, 4), st.integers(16, 64), st.integers(0, 100))
def test_estimates_are_never_below_the_exact_count_nor_above_the_total(
    stream: list[list[int]], depth: int, width: int, seed: int
) -> None:
    sketch, exact = CountMinSketch(depth, width, seed), Counter[int]()
    for rows in stream:
        sketch.add(torch.tensor(rows, dtype=torch.long))
        exact.update(rows)
    estimate = sketch.count(torch.arange(61)).tolist()
    assert all(exact[row] <= found <= exact.total() for row, found in enumerate(estimate))
    assert int(sketch.total) == exact.total()


@given(streams)
def test_in_a_wide_sketch_estimates_are_exact(stream: list[list[int]]) -> None:
    sketch, exact = CountMinSketch(4, 1_000_003), Counter[int]()
    for rows in stream:
        sketch.add(torch.tensor(rows, dtype=torch.long))
        exact.update(rows)
    assert sketch.count(torch.arange(61)).tolist() == [exact[row] for row in range(61)]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_promised_error_is_kept(depth: int) -> None:
    width, items = 200, 5_000
    draw = torch.Generator().manual_seed(3)
    row_X = (items * torch.rand(100_000, generator=draw) ** 4).long()
    exact = torch.bincount(row_X, minlength=items)
    sketch = CountMinSketch(depth, width)
    for part in row_X.split(10_000):
        sketch.add(part)
    excess = sketch.count(torch.arange(items)) - exact
    too_high = (excess > math.e / width * len(row_X)).double().mean()
    assert float(too_high) <= math.exp(-depth)


def test_a_sketch_that_is_stored_and_restored_counts_on() -> None:
    row_X = torch.arange(500) % 37
    whole, first, second = CountMinSketch(2, 50, 1), CountMinSketch(2, 50, 1), CountMinSketch(2, 50, 9)
    whole.add(row_X)
    first.add(row_X[:200])
    second.load_state_dict(first.state_dict())
    second.add(row_X[200:])
    assert torch.equal(second.count(row_X), whole.count(row_X))


def test_frequencies_are_shares_and_an_unseen_item_has_half_an_event() -> None:
    sketch = CountMinSketch(2, 4096)
    sketch.add(torch.tensor([1, 1, 1, 2]))
    assert sketch.frequency(torch.tensor([1, 2, 3])).tolist() == [0.75, 0.25, 0.125]
