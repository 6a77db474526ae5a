"""A prepared dataset in memory, as flat arrays with offsets.

Shapes: V items of the catalogue, X most attributes of an item, F content width, A attributes of all items,
U users, E engaged events of all users, N events of one user.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from unipinrec.arrays import Bools, Float32s, Int64s
from unipinrec.data.events import DatasetInfo
from unipinrec.data.feedviews import Feedviews, offsets
from unipinrec.data.history import UNKNOWN_ROW, History, rows_of
from unipinrec.data.prepared import read_prepared


@dataclass(frozen=True, slots=True)
class InteractionDataset:
    """Users' histories and feedviews. An item's row is its index in `item_ids_V`."""

    info: DatasetInfo
    item_ids_V: Int64s
    """External ids, ascending."""
    titles_V: NDArray[np.object_]
    """Texts of Python, as `user_ids_U`: an array of fixed width would make every text as long as the longest,
    and lose NUL characters at the end."""
    attributes_VX: Int64s
    """Attribute numbers, consecutive from 0, padded with -1."""
    attribute_ids_A: Int64s
    """What each number stands for, ascending."""
    content_VF: Float32s
    """Dense content vectors; zeros for an item that has none."""
    user_ids_U: NDArray[np.object_]
    offset_U1: Int64s
    """Events of user u are `offset_U1[u]` to `offset_U1[u + 1]`."""
    item_row_E: Int64s
    actions_E: Int64s
    """Bitmasks. None is 0 unless `info.history_impressions`: an item that was shown and not acted on is else
    in `feedviews` alone."""
    surface_E: Int64s
    timestamp_E: Int64s
    feedviews: Feedviews

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a prepared dataset.

        Raises `PreparedDatasetError` if the folder is not a prepared dataset, or was altered.
        """
        prepared = read_prepared(folder)
        item_ids_V = prepared.items["item_id"].to_numpy()
        rows = _numbered(prepared.events, item_ids_V, prepared.info.history_impressions)
        user_ids_U = prepared.events["user_id"].unique(maintain_order=True).to_numpy()
        engaged = rows.filter("is_event")
        attributes_VX, attribute_ids_A = _attributes(prepared.items["attributes"])
        return cls(
            info=prepared.info,
            item_ids_V=item_ids_V,
            titles_V=prepared.items["title"].to_numpy(),
            attributes_VX=attributes_VX,
            attribute_ids_A=attribute_ids_A,
            content_VF=_content(prepared.items["content"]),
            user_ids_U=user_ids_U,
            offset_U1=offsets(_int64(engaged, "user"), len(user_ids_U)),
            item_row_E=_int64(engaged, "item_row"),
            actions_E=_int64(engaged, "actions"),
            surface_E=_int64(engaged, "surface"),
            timestamp_E=_int64(engaged, "timestamp"),
            feedviews=_feedviews(rows, len(user_ids_U)),
        )

    @property
    def positive_mask(self) -> int:
        """Actions that make an item worth retrieving, as a bitmask."""
        return sum(1 << self.info.actions.index(name) for name in self.info.positive_actions)

    @property
    def catalogue_fields(self) -> dict[str, int]:
        """Those fields of `ModelConfig` that follow from the dataset."""
        return {
            "num_items": len(self.item_ids_V),
            "num_actions": len(self.info.actions),
            "num_surfaces": len(self.info.surfaces),
            "num_attributes": int(self.attributes_VX.max(initial=-1)) + 1,
            "max_attributes": self.attributes_VX.shape[1],
            "content_dim": self.content_VF.shape[1],
        }

    def history(self, user: int) -> History:
        """Return the whole history of the user with that index; the arrays are views."""
        events = slice(int(self.offset_U1[user]), int(self.offset_U1[user + 1]))
        return History(
            item_row_N=self.item_row_E[events],
            actions_N=self.actions_E[events],
            timestamp_N=self.timestamp_E[events],
            surface_N=self.surface_E[events],
        )

    def rows_of(self, external_ids: ArrayLike) -> Int64s:
        """Return rows of external item ids, in the same shape; -1 for an unknown id."""
        return rows_of(self.item_ids_V, np.asarray(external_ids, np.int64))


FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Split:
    """Where each user is cut: train is events `[0, train_end_U)` and feedviews before `test_begin_U`."""

    train_end_U: Int64s
    held_out_U: Bools
    """Users with events after the cut."""
    test_begin_U: Int64s
    """Unix seconds from which on feedviews are held out."""


def split_leave_one_out(dataset: InteractionDataset) -> Split:
    """Hold out the last two events of every user who has at least three.

    Where `held_out_U`, the event at `train_end_U` is the validation target and the next, the last one, the
    test target. The other users' events all are training events.
    """
    length_U = np.diff(dataset.offset_U1)
    held_out_U = length_U >= 3
    train_end_U = np.where(held_out_U, length_U - 2, length_U)
    return Split(train_end_U, held_out_U, np.full_like(length_U, FOREVER))


def split_at_time(dataset: InteractionDataset, test_begin: int) -> Split:
    """Hold out everything from `test_begin` on, in unix seconds, for everyone alike."""
    length_U = np.diff(dataset.offset_U1)
    user_E = np.repeat(np.arange(len(length_U)), length_U)
    train_end_U = np.bincount(user_E[dataset.timestamp_E < test_begin], minlength=len(length_U))
    return Split(train_end_U, train_end_U < length_U, np.full_like(length_U, test_begin))


def _attributes(lists: pl.Series) -> tuple[Int64s, Int64s]:
    flat = lists.to_frame("attribute").with_row_index("item").explode("attribute").drop_nulls()
    item_A = flat["item"].to_numpy()
    index_A = np.arange(len(item_A)) - np.searchsorted(item_A, item_A)
    padded_VX = np.full((len(lists), int(index_A.max(initial=-1)) + 1), UNKNOWN_ROW, np.int64)
    attribute_ids_A, number_A = np.unique(flat["attribute"].to_numpy(), return_inverse=True)
    padded_VX[item_A, index_A] = number_A
    return padded_VX, attribute_ids_A.astype(np.int64)


def _content(lists: pl.Series) -> Float32s:
    width_V = lists.list.len().to_numpy()
    has_content_V = width_V > 0
    content_VF = np.zeros((len(lists), int(width_V.max())), np.float32)
    given = lists.explode().drop_nulls().to_numpy()
    content_VF[has_content_V] = given.reshape(has_content_V.sum(), content_VF.shape[1])
    return content_VF


def _numbered(events: pl.DataFrame, item_ids_V: Int64s, history_impressions: bool) -> pl.DataFrame:
    """Events with `user` and `item_row` numbers, and `through`: the user's history events up to the row."""
    is_event = (pl.col("actions") != 0) | history_impressions
    return events.with_columns(
        user=pl.col("user_id").rle_id().cast(pl.Int64),
        item_row=pl.Series(np.searchsorted(item_ids_V, events["item_id"].to_numpy())),
        is_event=is_event,
        through=is_event.cum_sum().over("user_id").cast(pl.Int64),
    )


def _feedviews(rows: pl.DataFrame, users: int) -> Feedviews:
    numbered = rows.with_row_index("row").drop_nulls("feedview_id")
    first_row = pl.col("row").min().over("user", "feedview_id")
    shown = numbered.with_columns(first_row=first_row).sort("first_row", "row")
    first = shown.filter(pl.col("row") == pl.col("first_row"))
    feedview_S = _int64(shown.select(feedview=pl.col("first_row").rle_id()), "feedview")
    return Feedviews(
        offset_U1=offsets(_int64(first, "user"), users),
        timestamp_F=_int64(first, "timestamp"),
        surface_F=_int64(first, "surface"),
        start_F=_int64(first, "through") - _int64(first, "is_event"),
        shown_offset_F1=offsets(feedview_S, len(first)),
        item_row_S=_int64(shown, "item_row"),
        actions_S=_int64(shown, "actions"),
        through_S=_int64(shown, "through"),
    )


def _int64(frame: pl.DataFrame, column: str) -> Int64s:
    return frame[column].to_numpy().astype(np.int64)
