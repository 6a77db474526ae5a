"""The leave-one-out protocol: what is asked, what it must not see, and what comes out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.sequences import sequence_dataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.leave_one_out import RetrievalScorer, evaluate_leave_one_out
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.offline import OfflineRecommender

ITEMS = 60


def sequences() -> dict[str, list[int]]:
    """Forty users of one to nine items of a skewed catalogue."""
    random = np.random.default_rng(0)
    skew_V = 1 / np.arange(1, ITEMS + 1)
    return {
        f"{user:02}": random.choice(ITEMS, 1 + user % 9, replace=False, p=skew_V / skew_V.sum()).tolist()
        for user in range(40)
    } | {"every": list(range(ITEMS))}


@pytest.fixture
def dataset(tmp_path: Path) -> InteractionDataset:
    return sequence_dataset(tmp_path / "toy", sequences())


@pytest.fixture
def recommender() -> OfflineRecommender:
    torch.manual_seed(0)
    return OfflineRecommender(UnifiedRecommender(preset("demo", num_items=ITEMS, num_actions=1)))


def test_a_request_knows_nothing_of_what_it_asks_for(
    dataset: InteractionDataset, recommender: OfflineRecommender
) -> None:
    user_B, length_B = np.array([6, 40]), np.array([3, 20])
    event_B = dataset.offset_U1[user_B] + length_B

    def scores(changed_E: np.ndarray) -> np.ndarray:
        row_E = dataset.item_row_E.copy()
        row_E[changed_E] = (row_E[changed_E] + 1) % ITEMS
        return RetrievalScorer(recommender, replace(dataset, item_row_E=row_E))(user_B, length_B)

    unchanged_BV = scores(np.array([], np.int64))
    assert unchanged_BV.shape == (2, ITEMS)
    np.testing.assert_array_equal(scores(event_B), unchanged_BV)
    assert (np.abs(scores(event_B - 1) - unchanged_BV).max(axis=1) > 1e-4).all()


def test_popularity_finds_what_plain_counting_finds(
    dataset: InteractionDataset, recommender: OfflineRecommender
) -> None:
    users = [items for items in sequences().values() if len(items) >= 3]
    others = [items for items in sequences().values() if len(items) < 3]
    count = Counter(item for items in [*(items[:-1] for items in users), *others] for item in items)
    gains = []
    for items in users:
        left = [item for item in range(ITEMS) if item not in items[:-1]]
        place = sorted(left, key=lambda item: (-count[item], item)).index(items[-1])
        gains.append(1 / np.log2(place + 2) if place < 10 else 0.0)
    lines: list[str] = []
    quality = evaluate_leave_one_out(recommender, dataset, lines.append)
    assert quality["popularity"]["recall@10"].mean == pytest.approx(np.mean(np.sign(gains)))
    assert quality["popularity"]["ndcg@10"].mean == pytest.approx(np.mean(gains))
    assert list(quality) == ["popularity", "markov", "unipinrec_retrieval"]
    assert [line.split(":")[0] for line in lines] == list(quality)
