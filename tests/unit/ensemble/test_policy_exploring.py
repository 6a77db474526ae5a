"""Exploration draws: reproducible, uniform, as many as asked for, and of independent bits."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency, chisquare

from ensemble.policy.exploring import explored_arm

ARMS = 50
REQUESTS = 40_000


def drawn(share: float, seed: int = 3, arms: int = ARMS) -> list[int | None]:
    """Of many requests of two users each."""
    return [
        explored_arm(f"request-{number // 2}".encode(), number % 2, share=share, seed=seed, arms=arms)
        for number in range(REQUESTS)
    ]


@pytest.mark.parametrize("share", [0.0125, 0.2])
def test_the_stated_share_explores(share: float) -> None:
    explored = sum(arm is not None for arm in drawn(share))
    assert binomtest(explored, REQUESTS, share).pvalue > 1e-3


@pytest.mark.parametrize(("share", "arms"), [(1.0, 50), (1.0, 7), (0.2, 50)])
def test_arms_are_uniform_whatever_the_share(share: float, arms: int) -> None:
    counts = Counter(arm for arm in drawn(share, arms=arms) if arm is not None)
    assert set(counts) == set(range(arms))
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_a_larger_share_keeps_what_explored_with_the_same_arm() -> None:
    pairs = list(zip(drawn(0.05), drawn(0.5), strict=True))
    assert all(arm in (None, other) for arm, other in pairs)


def test_everyone_or_nobody_explores_at_the_ends() -> None:
    assert None not in drawn(1.0)
    assert set(drawn(0.0)) == {None}


def test_a_request_without_an_id_does_not_explore() -> None:
    assert explored_arm(b"", 0, share=1.0, seed=3, arms=ARMS) is None


def test_users_of_one_request_draw_independently() -> None:
    drawn_RB = np.array(drawn(1.0, arms=5)).reshape(-1, 2)
    table = np.zeros((5, 5))
    np.add.at(table, (drawn_RB[:, 0], drawn_RB[:, 1]), 1)
    assert chi2_contingency(table).pvalue > 1e-3


def test_two_seeds_choose_and_draw_independently() -> None:
    whether = [[arm is not None for arm in drawn(0.3, seed)] for seed in (3, 4)]
    table = np.zeros((2, 2))
    np.add.at(table, tuple(np.array(whether).astype(int)), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    table = np.zeros((5, 5))
    np.add.at(table, (drawn(1.0, 3, 5), drawn(1.0, 4, 5)), 1)
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_draw_is_what_the_log_can_be_checked_by() -> None:
    digest = hashlib.blake2b(
        b"\x00\x00\x00\x01" + b"abc", digest_size=16, salt=(9).to_bytes(16, "big"), person=b"unipinrec"
    ).hexdigest()
    chance, draw = int(digest[:16], 16) / 2**64, int(digest[16:], 16)
    expected = draw * ARMS // 2**64
    assert explored_arm(b"abc", 1, share=chance + 1e-9, seed=9, arms=ARMS) == expected
    assert explored_arm(b"abc", 1, share=chance - 1e-9, seed=9, arms=ARMS) is None
