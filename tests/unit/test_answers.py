"""The yardstick of the served tests tells rounding from another user's answer."""

import numpy as np
import pytest

from tests.served.answers import EXACT, Answer, Likeness


def answer(items: str, shift: float = 0.0, origin: int = 0) -> Answer:
    """An item for each letter, whose numbers follow from the letter."""
    ids = [ord(letter) for letter in items]
    numbers = np.array([[item / 1000 + shift, item / 500] for item in ids], np.float32)
    return Answer(ids, numbers, [origin] * len(ids))


def test_exact_answers_differ_in_anything() -> None:
    right = answer("abcd")
    assert not EXACT.difference(answer("abcd"), right)
    for other in (answer("abdc"), answer("abce"), answer("abc"), answer("abcd", origin=1)):
        assert "not" in EXACT.difference(other, right)
    assert "differ by" in EXACT.difference(answer("abcd", shift=1e-6), right)


@pytest.mark.parametrize("items", ["abcdefghij", "bacdefghij", "abcdefghik"])
def test_rounding_may_swap_items_and_leave_one_of_ten_out(items: str) -> None:
    likeness = Likeness(rounding=1e-3, strangers=0.1)
    assert not likeness.difference(answer(items, shift=5e-4), answer("abcdefghij"))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (answer("abcdefghkl"), "2 of 10 items are others"),
        (answer("abcdefghij", shift=2e-3), "differ by 0.00"),
        (answer("abcdefghi"), "9 items, not 10"),
    ],
)
def test_what_is_beyond_rounding_is_said(other: Answer, difference: str) -> None:
    assert difference in Likeness(rounding=1e-3, strangers=0.1).difference(other, answer("abcdefghij"))
