"""The window keeps the most recent events, and its start moves in blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipinrec.data.window import window_start


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    max_history = draw(st.integers(1, 2000))
    return max_history, draw(st.integers(1, max_history))


@given(sizes(), st.integers(0, 10_000))
def test_window_properties(size: tuple[int, int], length: int) -> None:
    max_history, block = size
    start = window_start(length, max_history, block)
    assert start % block == 0
    if length <= max_history:
        assert start == 0
    else:
        assert max_history - block < length - start <= max_history
    assert window_start(length + 1, max_history, block) in (start, start + block)


@pytest.mark.parametrize(("length", "start"), [(0, 0), (10, 0), (11, 4), (14, 4), (15, 8), (18, 8), (19, 12)])
def test_window_of_ten_in_blocks_of_four(length: int, start: int) -> None:
    assert window_start(length, 10, 4) == start


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10, 4), "length is -1; allowed: 0 or more"),
        ((5, 10, 0), "block is 0; allowed: 1 to max_history 10"),
        ((5, 10, 11), "block is 11; allowed: 1 to max_history 10"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        window_start(*arguments)
