"""The yardstick of the served tests tells rounding from another user's answer."""

import numpy as np
import pytest

from tests.support.answers import PROMISED, Answer, Likeness


def answer(items: str, shift: float = 0.0, origin: int = 0) -> Answer:
    """An item for each letter, best first, whose numbers follow from the letter."""
    ids = [ord(letter) for letter in items]
    numbers = np.array([[item / 1000 + shift, -item / 500 + shift] for item in ids], np.float32)
    return Answer(ids, numbers, [origin] * len(ids))


def answers(*items: str) -> list[Answer]:
    return [answer(letters) for letters in items]


@pytest.mark.parametrize("shift", [0.0, 9e-6, -9e-6])
def test_what_is_promised_allows_rounding(shift: float) -> None:
    assert not PROMISED.difference(answer("abcd", shift), answer("abcd"))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (answer("abdc"), "are not in order"),
        (answer("abef"), "2 of 4 items are others"),
        (answer("abc"), "3 items, not 4"),
        (answer("abcd", origin=1), "4 of 4 items are others"),
        (answer("abcd", shift=1.1e-5), "differ by 1.1"),
    ],
)
def test_what_is_promised_allows_nothing_else(other: Answer, difference: str) -> None:
    assert difference in PROMISED.difference(other, answer("abcd"))


def test_a_tie_may_fall_either_way() -> None:
    first, second = answer("ab"), answer("ba")
    first.number_KX[:], second.number_KX[:] = 0.5, 0.5
    first.number_KX[1, -1] -= 5e-6
    second.number_KX[1, -1] -= 5e-6
    assert not PROMISED.difference(first, second)
    first.number_KX[1, -1] -= 1e-5
    assert "differ by" in PROMISED.difference(first, second)


def test_one_item_in_a_thousand_may_be_another() -> None:
    many = ["abcdefghij"] * 100
    assert not PROMISED.differences(answers(*many[1:], "abcdefghik"), answers(*many))
    twice = PROMISED.differences(answers(*many[2:], "abcdefghik", "abcdefghik"), answers(*many))
    assert twice == "2 of 1000 items are others"


def test_a_gpu_may_leave_more_out() -> None:
    likeness = Likeness(rounding=1e-3, strangers=0.1)
    assert not likeness.difference(answer("abcdefghik", shift=5e-4, origin=1), answer("abcdefghij"))
    assert "2 of 10 items are others" in likeness.difference(answer("abcdefghkl"), answer("abcdefghij"))
