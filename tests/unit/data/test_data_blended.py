"""Blended examples: exact joins by hand, nothing held out, and chances as stated."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from unipinrec.data.blended import BlendedConfig, BlendedDataset, BlendedExample, collate
from unipinrec.data.events import DatasetInfo
from unipinrec.data.impressions import ImpressionSampler
from unipinrec.data.interactions import InteractionDataset, split_at_time
from unipinrec.data.prepared import write_prepared

Row = tuple[str, int, int, int, int, int | None]
COLUMNS = ["user_id", "item_id", "actions", "surface", "timestamp", "feedview_id"]

# Item 100 + r is row r. User a has 6 engaged events; the last two (rows 5 and 6) are held out.
SLATES: list[Row] = [
    ("a", 100, 1, 0, 10, 1),
    ("a", 101, 0, 0, 10, 1),
    ("a", 102, 2, 0, 20, 2),
    ("a", 103, 1, 1, 30, 3),
    ("a", 104, 3, 1, 31, 3),
    ("a", 105, 1, 1, 32, 3),
    ("a", 106, 1, 1, 40, 4),
    ("b", 107, 0, 1, 5, 1),
]


def load(folder: Path, rows: list[Row], sampled: bool = False, catalogue: int = 8) -> InteractionDataset:
    info = DatasetInfo(
        name="shop",
        actions=("click", "save"),
        surfaces=("home", "search"),
        sampled_impressions=sampled,
        utility_weights=(1.0, 1.0),
    )
    items = pl.DataFrame({"item_id": range(100, 100 + catalogue)})
    write_prepared(folder / "shop", pl.DataFrame(rows, COLUMNS, orient="row"), items, info)
    return InteractionDataset.load(folder / "shop")


def load_again(folder: Path) -> InteractionDataset:
    return InteractionDataset.load(folder / "shop")


def slate(example: BlendedExample) -> dict[int, int]:
    return dict(zip(example.candidate_item_K.tolist(), example.candidate_actions_K.tolist(), strict=True))


def test_the_last_training_feedview_is_cut_before_the_held_out_events(tmp_path: Path) -> None:
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0)
    example = BlendedDataset(load(tmp_path, SLATES), config)[0]
    assert example.event_item_N.tolist() == [0, 2]
    assert example.event_actions_N.tolist() == [1, 2]
    assert example.event_timestamp_N.tolist() == [10, 20]
    assert (example.feedview_timestamp_F[0], example.feedview_surface_F[0], example.next_item) == (30, 1, 3)
    assert slate(example) == {3: 1, 4: 3}


def test_events_know_when_their_feedview_began(tmp_path: Path) -> None:
    passed_by: list[Row] = [("a", 107, 0, 0, 25, 9), ("a", 107, 0, 0, 26, 10)]
    rows = sorted([*SLATES, *passed_by], key=lambda row: (row[0], row[4]))
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0)
    split = split_at_time(load(tmp_path, rows), 41)
    example = BlendedDataset(load_again(tmp_path), config, split)[0]
    assert example.event_timestamp_N.tolist() == [10, 20, 30, 31, 32]
    assert example.event_shown_N.tolist() == [10, 20, 30, 30, 30]


def test_the_window_keeps_the_most_recent_events(tmp_path: Path) -> None:
    config = BlendedConfig(max_history=1, last_feedview_probability=1.0)
    assert BlendedDataset(load(tmp_path, SLATES), config)[0].event_item_N.tolist() == [2]


def test_earlier_feedviews_of_the_window_share_an_example(tmp_path: Path) -> None:
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0, feedviews_per_example=3)
    example = BlendedDataset(load(tmp_path, SLATES), config)[0]
    first, *others = zip(
        example.feedview_timestamp_F.tolist(), example.feedview_length_F.tolist(), strict=True
    )
    assert first == (30, 2)
    assert sorted(others) == [(10, 0), (20, 1)]
    shown: dict[int, set[int]] = {}
    for feedview, row in zip(example.candidate_feedview_K, example.candidate_item_K.tolist(), strict=True):
        shown.setdefault(int(example.feedview_timestamp_F[feedview]), set()).add(row)
    assert shown == {10: {0, 1}, 20: {2}, 30: {3, 4}}
    assert (example.event_item_N.tolist(), example.next_item) == ([0, 2], 3)


def test_a_feedview_before_the_window_is_not_drawn(tmp_path: Path) -> None:
    config = BlendedConfig(max_history=1, last_feedview_probability=1.0, feedviews_per_example=8)
    example = BlendedDataset(load(tmp_path, SLATES), config)[0]
    assert example.feedview_timestamp_F.tolist() == [30, 20]
    assert example.feedview_length_F.tolist() == [1, 0]


def test_no_epoch_shows_held_out_events(tmp_path: Path) -> None:
    dataset = BlendedDataset(
        load(tmp_path, SLATES), BlendedConfig(max_history=8, last_feedview_probability=0.0)
    )
    seen: set[int] = set()
    for epoch in range(100):
        dataset.set_epoch(epoch)
        example = dataset[0]
        seen |= set(example.event_item_N.tolist()) | set(slate(example))
    assert seen == {0, 1, 2, 3, 4}


def test_feedviews_are_chosen_by_size(tmp_path: Path) -> None:
    dataset = BlendedDataset(
        load(tmp_path, SLATES), BlendedConfig(max_history=8, last_feedview_probability=0.0)
    )
    times = []
    for epoch in range(2000):
        dataset.set_epoch(epoch)
        times.append(int(dataset[0].feedview_timestamp_F[0]))
    share = {time: times.count(time) / 2000 for time in (10, 20, 30)}
    # Kept sizes are 2, 1 and 2; the standard deviation of a share is 0.011 at most.
    assert share == pytest.approx({10: 0.4, 20: 0.2, 30: 0.4}, abs=0.05)


def test_half_of_the_examples_use_the_last_feedview(tmp_path: Path) -> None:
    dataset = BlendedDataset(load(tmp_path, SLATES), BlendedConfig(max_history=8))
    last = 0
    for epoch in range(2000):
        dataset.set_epoch(epoch)
        last += dataset[0].feedview_timestamp_F[0] == 30
    # Half of the time by rule, and 0.4 of the other half by size.
    assert last / 2000 == pytest.approx(0.7, abs=0.05)


def test_a_user_who_only_looks_is_an_example_without_history(tmp_path: Path) -> None:
    dataset = BlendedDataset(load(tmp_path, SLATES), BlendedConfig(max_history=8))
    assert len(dataset) == 2
    example = dataset[1]
    assert example.user == 1
    assert example.event_item_N.tolist() == []
    assert (example.next_item, slate(example)) == (-1, {7: 0})


def test_a_user_without_a_training_feedview_is_left_out(tmp_path: Path) -> None:
    rows: list[Row] = [("z", 100, 1, 0, 0, None), ("z", 101, 1, 0, 1, 1), ("z", 102, 1, 0, 2, 1)]
    dataset = load(tmp_path, [*SLATES, *rows])
    blended = BlendedDataset(dataset, BlendedConfig(max_history=8))
    assert dataset.user_ids_U.tolist() == ["a", "b", "z"]
    assert len(blended) == 2


def test_candidates_come_in_random_order(tmp_path: Path) -> None:
    dataset = BlendedDataset(
        load(tmp_path, SLATES), BlendedConfig(max_history=8, last_feedview_probability=1.0)
    )
    orders = []
    for epoch in range(400):
        dataset.set_epoch(epoch)
        orders.append(tuple(dataset[0].candidate_item_K.tolist()))
    assert set(orders) == {(3, 4), (4, 3)}
    assert orders.count((3, 4)) / 400 == pytest.approx(0.5, abs=0.1)


def test_an_item_shown_twice_is_one_candidate(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 101, 0, 0, 10, 1), ("a", 101, 2, 0, 11, 1), ("a", 101, 1, 0, 12, 1)]
    rows.append(("a", 100, 1, 0, 9, 0))
    ordered = sorted(rows, key=lambda row: row[4])
    ordered += [("a", 103, 1, 0, 20, 2), ("a", 104, 1, 0, 21, 2)]
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0)
    assert slate(BlendedDataset(load(tmp_path, ordered), config)[0]) == {1: 3}


def test_training_counts_leave_out_held_out_events(tmp_path: Path) -> None:
    dataset = BlendedDataset(load(tmp_path, SLATES), BlendedConfig(max_history=8))
    assert dataset.item_counts().tolist() == [1, 0, 1, 1, 1, 0, 0, 0]


def test_a_batch_is_padded_at_the_end_and_aims_at_the_next_item(tmp_path: Path) -> None:
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0)
    dataset = BlendedDataset(load(tmp_path, SLATES), config)
    batch = collate([dataset[1], dataset[0]])
    assert batch.event_item_BN.tolist() == [[-1, -1], [0, 2]]
    assert batch.event_actions_BN.tolist() == [[0, 0], [1, 2]]
    assert batch.event_surface_BN.tolist() == [[0, 0], [0, 0]]
    assert batch.event_timestamp_BN.tolist() == [[0, 0], [10, 20]]
    assert batch.length_B.tolist() == [0, 2]
    assert batch.target_item_BT.tolist() == [[-1, -1, -1], [0, 2, 3]]
    assert batch.target_timestamp_BT.tolist() == [[5, 0, 0], [10, 20, 30]]
    assert batch.target_surface_BT.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert batch.candidate_item_BK[0].tolist() == [7, -1]
    assert sorted(batch.candidate_item_BK[1].tolist()) == [3, 4]
    assert batch.candidate_actions_BK[0].tolist() == [0, 0]
    assert batch.feedview_timestamp_BF.tolist() == [[5], [30]]
    assert batch.feedview_surface_BF.tolist() == [[1], [1]]
    assert batch.user_B.tolist() == [1, 0]
    tensors = [getattr(batch, name) for name in batch.__dataclass_fields__]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_the_same_seed_and_epoch_give_the_same_batches(tmp_path: Path) -> None:
    rows: list[Row] = [(f"user{u:02}", 100 + i, 1, 0, i, i // 4) for u in range(20) for i in range(12)]
    dataset = load(tmp_path, rows, sampled=True, catalogue=80)

    def candidates(seed: int, epoch: int) -> list[list[int]]:
        blended = BlendedDataset(dataset, BlendedConfig(max_history=8, seed=seed))
        blended.set_epoch(epoch)
        return [
            row for batch in blended.batches(batch_size=8, seed=3) for row in batch.candidate_item_BK.tolist()
        ]

    assert candidates(1, 5) == candidates(1, 5)
    assert candidates(1, 5) != candidates(1, 6)
    assert candidates(1, 5) != candidates(2, 5)


def test_the_loader_visits_every_user_once(tmp_path: Path) -> None:
    rows: list[Row] = [(f"user{u:02}", 100 + i, 1, 0, i, i // 2) for u in range(20) for i in range(6)]
    blended = BlendedDataset(load(tmp_path, rows), BlendedConfig(max_history=8))
    batches = [batch.user_B.tolist() for batch in blended.batches(batch_size=8, seed=3)]
    users = [user for batch in batches for user in batch]
    assert sorted(len(batch) for batch in batches) == [4, 8, 8]
    assert sorted(users) == list(range(20))
    assert users != list(range(20))


def test_histories_of_similar_length_share_a_batch(tmp_path: Path) -> None:
    rows: list[Row] = [
        (f"user{u:02}", 100 + i, 1, 0, i, i // 2) for u in range(40) for i in range(4 + 20 * (u % 2))
    ]
    config = BlendedConfig(max_history=32, last_feedview_probability=1.0)
    blended = BlendedDataset(load(tmp_path, rows), config)
    lengths = [set(batch.length_B.tolist()) for batch in blended.batches(batch_size=20, seed=3)]
    assert sorted(lengths, key=min) == [{0}, {20}]


def test_sampled_impressions_are_unseen_items_without_actions(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 100 + i, 1, 0, i, i // 4) for i in range(12)]
    dataset = load(tmp_path, rows, sampled=True, catalogue=60)
    config = BlendedConfig(max_history=8, last_feedview_probability=1.0, sampled_impressions_per_feedview=10)
    drawn: set[int] = set()
    for epoch in range(60):
        blended = BlendedDataset(dataset, config)
        blended.set_epoch(epoch)
        shown = slate(blended[0])
        assert {item for item, actions in shown.items() if actions} == {8, 9}
        impressions = {item for item, actions in shown.items() if not actions}
        assert impressions.isdisjoint(range(10))
        drawn |= impressions
    assert drawn == set(range(10, 60))


def test_half_of_the_impressions_follow_popularity() -> None:
    count_V = np.zeros(1000, np.int64)
    count_V[500:600] = 3
    sampler = ImpressionSampler(count_V)
    drawn = sampler.draw(np.random.default_rng(0), 33, np.array([500, 501]))
    popular = (drawn >= 500) & (drawn < 600)
    assert len(set(drawn.tolist())) == 33
    assert popular[17:].all()
    assert popular[:17].mean() < 0.5
    assert not {500, 501} & set(drawn.tolist())


def test_popular_impressions_are_drawn_in_proportion() -> None:
    sampler = ImpressionSampler(np.array([0, 0, 3, 1]))
    random = np.random.default_rng(0)
    pairs = [sampler.draw(random, 2, np.array([], np.int64)).tolist() for _ in range(2000)]
    popular = [pair[1] for pair in pairs if pair[0] < 2]
    assert set(popular) == {2, 3}
    # About 1,000 draws with a chance of 3 in 4; the standard deviation of the share is 0.014.
    assert popular.count(2) / len(popular) == pytest.approx(0.75, abs=0.06)


def test_fewer_impressions_are_drawn_when_nearly_everything_is_seen() -> None:
    drawn = ImpressionSampler(np.ones(6, np.int64)).draw(np.random.default_rng(0), 8, np.array([0, 1, 2, 3]))
    assert sorted(drawn.tolist()) == [4, 5]


def test_a_tenth_of_the_feedviews_without_engagement_is_kept(tmp_path: Path) -> None:
    rows: list[Row] = [("a", 100 + step, 0, 0, 10 * step, step) for step in range(1, 5)]
    rows += [("a", 100, 1, 0, 5, 0), ("a", 106, 1, 0, 200, 8), ("a", 107, 1, 0, 300, 9)]
    rows.sort(key=lambda row: row[4])
    config = BlendedConfig(max_history=8, last_feedview_probability=0.0)
    dataset = BlendedDataset(load(tmp_path, rows), config, split_at_time(load_again(tmp_path), 100))
    looked = 0
    for epoch in range(4000):
        dataset.set_epoch(epoch)
        looked += dataset[0].feedview_timestamp_F[0] != 5
    # Of four such feedviews, n are kept with the binomial chance of 0.1 each; n of n + 1 are then drawn.
    expected = sum(math.comb(4, n) * 0.1**n * 0.9 ** (4 - n) * n / (n + 1) for n in range(5))
    assert looked / 4000 == pytest.approx(expected, abs=0.03)


def test_a_split_in_time_holds_out_events_and_feedviews_from_then_on(tmp_path: Path) -> None:
    interactions = load(tmp_path, SLATES)
    split = split_at_time(interactions, 31)
    assert split.train_end_U.tolist() == [3, 0]
    assert split.held_out_U.tolist() == [True, False]
    dataset = BlendedDataset(interactions, BlendedConfig(max_history=8, last_feedview_probability=1.0), split)
    assert slate(dataset[0]) == {3: 1}
    early = BlendedDataset(interactions, BlendedConfig(max_history=8), split_at_time(interactions, 6))
    assert [example.user for example in (early[0],)] == [1]
    assert len(early) == 1


def test_only_items_with_a_positive_action_are_aimed_at(tmp_path: Path) -> None:
    interactions = load(tmp_path, SLATES)
    info = interactions.info.model_copy(update={"positive_actions": ("save",)})
    dataset = BlendedDataset(
        dataclasses.replace(interactions, info=info),
        BlendedConfig(max_history=8, last_feedview_probability=1.0),
    )
    assert (dataset[0].next_item, dataset[0].next_actions) == (4, 3)
