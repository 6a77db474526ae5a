"""Histories, feedviews and the split in memory, against a log small enough to check by eye."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.data.prepared import write_prepared

INFO = DatasetInfo(
    name="shop",
    actions=("click", "save"),
    surfaces=("home", "search"),
    sampled_impressions=False,
    positive_actions=("save",),
    utility_weights=(1.0, 1.0),
)
# Catalogue 10, 20, 30, 40, 50 = rows 0 to 4. User b only looks; slates 8 and 9 of user a overlap in time.
LOG = [
    ("a", 30, 1, 0, 100, 8),
    ("a", 40, 0, 0, 100, 8),
    ("a", 20, 0, 1, 110, 9),
    ("a", 10, 2, 0, 120, 8),
    ("a", 50, 3, 1, 130, 9),
    ("a", 30, 1, 1, 140, None),
    ("b", 40, 0, 1, 50, 8),
    ("c", 10, 1, 0, 7, 1),
    ("c", 20, 1, 0, 7, 1),
]
COLUMNS = ["user_id", "item_id", "actions", "surface", "timestamp", "feedview_id"]


@pytest.fixture
def dataset(tmp_path: Path) -> InteractionDataset:
    items = pl.DataFrame(
        {
            "item_id": [50, 10, 30],
            "title": ["Lamp", "Chair", None],
            "attributes": [[700, 4], [9], [9, 4, 1000]],
            "content": [[0.5, -1.0], None, [2.0, 0.0]],
        }
    )
    write_prepared(tmp_path / "shop", pl.DataFrame(LOG, COLUMNS, orient="row"), items, INFO)
    return InteractionDataset.load(tmp_path / "shop")


def test_histories_hold_engaged_events_alone(dataset: InteractionDataset) -> None:
    assert dataset.user_ids_U.tolist() == ["a", "b", "c"]
    assert dataset.item_ids_V.tolist() == [10, 20, 30, 40, 50]
    assert dataset.titles_V.tolist() == ["Chair", "20", "30", "40", "Lamp"]
    assert dataset.offset_U1.tolist() == [0, 4, 4, 6]
    history = dataset.history(0)
    assert history.item_row_N.tolist() == [2, 0, 4, 2]
    assert history.actions_N.tolist() == [1, 2, 3, 1]
    assert history.surface_N.tolist() == [0, 0, 1, 1]
    assert history.timestamp_N.tolist() == [100, 120, 130, 140]
    assert dataset.history(1).item_row_N.tolist() == []
    assert dataset.history(2).item_row_N.tolist() == [0, 1]


def test_feedviews_know_where_in_the_history_they_are(dataset: InteractionDataset) -> None:
    feedviews = dataset.feedviews
    assert feedviews.offset_U1.tolist() == [0, 2, 3, 4]
    views = [feedviews.view(index) for index in range(len(feedviews))]
    assert [(v.timestamp, v.surface, v.start) for v in views] == [
        (100, 0, 0),
        (110, 1, 1),
        (50, 1, 0),
        (7, 0, 0),
    ]
    assert [v.item_row_K.tolist() for v in views] == [[2, 3, 0], [1, 4], [3], [0, 1]]
    assert [v.actions_K.tolist() for v in views] == [[1, 0, 2], [0, 3], [0], [1, 1]]
    assert feedviews.through_S.tolist() == [1, 1, 2, 1, 3, 0, 1, 2]


def test_impressions_may_be_events_without_action(tmp_path: Path) -> None:
    info = INFO.model_copy(update={"history_impressions": True})
    write_prepared(tmp_path / "shop", pl.DataFrame(LOG, COLUMNS, orient="row"), None, info)
    dataset = InteractionDataset.load(tmp_path / "shop")
    assert dataset.history(0).actions_N.tolist() == [1, 0, 0, 2, 3, 1]
    assert dataset.history(1).actions_N.tolist() == [0]
    views = dataset.feedviews
    # Slate 8 begins at the first event, 9 at the third; b and c begin with their own.
    assert views.start_F.tolist() == [0, 2, 0, 0]
    assert views.through_S.tolist() == [1, 2, 4, 3, 5, 1, 1, 2]


def test_the_last_event_is_test_and_the_one_before_validation(dataset: InteractionDataset) -> None:
    split = split_leave_one_out(dataset)
    assert split.train_end_U.tolist() == [2, 0, 2]
    assert split.held_out_U.tolist() == [True, False, False]


def test_attributes_are_renumbered_and_padded(dataset: InteractionDataset) -> None:
    # 4, 9, 700 and 1000 are 0 to 3.
    assert dataset.catalogue_fields["num_attributes"] == 4
    assert dataset.attributes_VX.dtype == np.int64
    assert dataset.attributes_VX.tolist() == [
        [1, -1, -1],
        [-1, -1, -1],
        [0, 1, 3],
        [-1, -1, -1],
        [0, 2, -1],
    ]


def test_an_item_without_content_has_zeros(dataset: InteractionDataset) -> None:
    assert dataset.content_VF.dtype == np.float32
    assert dataset.content_VF.tolist() == [[0, 0], [0, 0], [2, 0], [0, 0], [0.5, -1]]


def test_a_catalogue_without_features_has_no_columns_for_them(tmp_path: Path) -> None:
    write_prepared(tmp_path / "shop", pl.DataFrame(LOG, COLUMNS, orient="row"), None, INFO)
    dataset = InteractionDataset.load(tmp_path / "shop")
    assert (dataset.attributes_VX.shape, dataset.content_VF.shape) == ((5, 0), (5, 0))
    assert dataset.catalogue_fields["num_attributes"] == 0


def test_texts_take_their_own_memory_and_keep_every_character(tmp_path: Path) -> None:
    users = ["u0", "u0\0", "\0", "ü" * 128]
    count = 20_000
    rows = [(user, item, 1, 0, item, None) for user in users for item in (0, 1)]
    titles = ["x" * 500_000, "t\0", *(str(item) for item in range(2, count))]
    items = pl.DataFrame({"item_id": range(count), "title": titles})
    write_prepared(tmp_path / "shop", pl.DataFrame(rows, COLUMNS, orient="row"), items, INFO)
    # As fixed-width text, the titles alone would take 37 GiB.
    dataset = InteractionDataset.load(tmp_path / "shop")
    assert sorted(dataset.user_ids_U.tolist()) == sorted(users)
    assert dataset.titles_V.tolist() == titles
    assert dataset.titles_V.nbytes == 8 * count


def test_positive_actions_are_a_bitmask(dataset: InteractionDataset) -> None:
    assert dataset.positive_mask == 0b10


def test_rows_of_external_ids(dataset: InteractionDataset) -> None:
    assert dataset.rows_of([50, 11, 10, 0, 99]).tolist() == [4, -1, 0, -1, -1]
    assert dataset.rows_of(np.array([[20], [60]])).tolist() == [[1], [-1]]
    assert dataset.rows_of([]).tolist() == []


def test_a_log_without_feedviews_has_none(tmp_path: Path) -> None:
    events = pl.DataFrame(LOG, COLUMNS, orient="row").drop("feedview_id")
    write_prepared(tmp_path / "shop", events, None, INFO)
    feedviews = InteractionDataset.load(tmp_path / "shop").feedviews
    assert len(feedviews) == 0
    assert feedviews.offset_U1.tolist() == [0, 0, 0, 0]
