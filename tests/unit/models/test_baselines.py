"""Popularity, the Markov chain and rates, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.sequences import SEQUENCES, sequence_dataset
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.models.baselines.counting import Markov, Popularity
from unipinrec.models.baselines.rates import Rates, Shown, choose_strength


@pytest.fixture
def dataset(tmp_path: Path) -> InteractionDataset:
    return sequence_dataset(tmp_path / "toy", SEQUENCES)


def shown(*rows: tuple[int, int, int]) -> Shown:
    """Impressions from (user, item row, label)."""
    user_S, item_row_S, label_S = np.array(rows).T
    return Shown(user_S, item_row_S, label_S.astype(bool))


def test_popularity_counts_events_before_the_end(dataset: InteractionDataset) -> None:
    end_U = split_leave_one_out(dataset).train_end_U
    assert end_U.tolist() == [2, 1, 2, 1]
    popularity = Popularity(dataset, end_U)
    assert popularity(np.array([0, 3]), np.array([1, 1])).tolist() == [[3, 1, 1, 0, 1], [3, 1, 1, 0, 1]]
    assert Popularity(dataset, end_U + np.array([1, 1, 1, 0])).count_V.tolist() == [3, 2, 2, 1, 1]


def test_markov_counts_transitions_and_fills_with_popularity(dataset: InteractionDataset) -> None:
    end_U = np.array([3, 2, 3, 1])
    # Within these: u 0-1-2, v 0-1, w 0-2-3, x 4. Popularity 3, 2, 2, 1, 1; fill = popularity / 4.
    markov = Markov(dataset, end_U, Popularity(dataset, end_U))
    scores_BV = markov(np.array([0, 1, 2, 3]), np.array([1, 2, 2, 0]))
    assert scores_BV.tolist() == [
        [0.75, 2.5, 1.5, 0.25, 0.25],
        [0.75, 0.5, 1.5, 0.25, 0.25],
        [0.75, 0.5, 0.5, 1.25, 0.25],
        [0.75, 0.5, 0.5, 0.25, 0.25],
    ]


def test_rates_are_smoothed_towards_the_global_rate() -> None:
    rates = Rates(shown((0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 0, 1)), users=3, items=3, strength=2)
    # Global rate 3 / 4, so every rate is (positives + 1.5) / (impressions + 2).
    assert rates.rate_U.tolist() == [2.5 / 4, 3.5 / 4, 1.5 / 2]
    assert rates.rate_V.tolist() == [4.5 / 5, 1.5 / 3, 1.5 / 2]
    score_S = rates(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]))
    assert score_S == pytest.approx([0.625 * 0.9 / 0.75, 0.875 * 0.5 / 0.75, 0.75, 0.9])


def test_the_strength_is_the_one_that_orders_validation_best() -> None:
    # Item 0: 1 of 1, item 1: 60 of 100, item 2: 0 of 1,000. Only a strong prior puts item 1 above item 0.
    training = shown((0, 0, 1), *[(0, 1, 1)] * 60, *[(0, 1, 0)] * 40, *[(0, 2, 0)] * 1000)
    strengths = (0.1, 10.0, 20.0)
    assert choose_strength(training, shown((0, 0, 0), (0, 1, 1)), 1, 3, strengths) == 10.0
    assert choose_strength(training, shown((0, 0, 1), (0, 1, 0)), 1, 3, strengths) == 0.1


@pytest.mark.parametrize(
    ("rows", "strength", "message"),
    [
        ([(0, 0, 1)], 0.0, "strength is 0.0; allowed: above 0"),
        ([(0, 0, 0)], 1.0, "positives is 0; allowed: 1 or more"),
        ([(2, 0, 1)], 1.0, "user is 2; allowed: 0 to 1"),
        ([(0, -1, 1)], 1.0, "item row is -1; allowed: 0 to 2"),
    ],
)
def test_rates_refuse_what_has_no_rate(
    rows: list[tuple[int, int, int]], strength: float, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Rates(shown(*rows), users=2, items=3, strength=strength)


def test_rates_refuse_an_unknown_item_when_scoring() -> None:
    rates = Rates(shown((0, 0, 1)), users=1, items=2)
    with pytest.raises(ValueError, match=r"^item row is -1; allowed: 0 to 1$"):
        rates(np.array([0]), np.array([-1]))
