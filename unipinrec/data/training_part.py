"""What a split leaves of a dataset to train on, and items in the place of impressions that it lacks.

Shapes: F feedviews, S shown items, E events of all users, V items, K items drawn.
"""

from functools import cached_property
from typing import TypeVar

import numpy as np
from torch.utils.data import Dataset

from unipinrec.arrays import Bools, Int64s
from unipinrec.data.feedviews import group_of
from unipinrec.data.impressions import ImpressionSampler
from unipinrec.data.interactions import InteractionDataset, Split, split_leave_one_out
from unipinrec.data.slates import Slates

Example = TypeVar("Example", covariant=True)


class TrainingPart(Dataset[Example]):
    """Examples out of the training part of a split alone (default: leave one out)."""

    def __init__(self, dataset: InteractionDataset, split: Split | None) -> None:
        self._dataset = dataset
        self._split = split or split_leave_one_out(dataset)
        self._user_F = group_of(dataset.feedviews.offset_U1)
        self._kept_F = self._kept_sizes()
        self._engaged_F = self._engaged()
        self._sampler = ImpressionSampler(self.item_counts())

    @property
    def interactions(self) -> InteractionDataset:
        """Return the dataset that the examples are drawn from."""
        return self._dataset

    @property
    def sha256(self) -> dict[str, str]:
        """Return the hashes of the dataset's tables."""
        return self._dataset.info.sha256

    @cached_property
    def slates(self) -> Slates:
        """Return what each feedview showed before the user's first held-out event; nothing for the others."""
        return Slates.of(self._dataset, self._kept_F)

    def item_counts(self) -> Int64s:
        """Return the number of training events of every item, [V]."""
        user_E = group_of(self._dataset.offset_U1)
        index_E = np.arange(len(user_E)) - self._dataset.offset_U1[user_E]
        training_E = index_E < self._split.train_end_U[user_E]
        return np.bincount(self._dataset.item_row_E[training_E], minlength=len(self._dataset.item_ids_V))

    def _sampled(self, user: int, count: int, random: np.random.Generator) -> Int64s:
        """At most so many items [K] that the user did not engage with in the training part."""
        seen_X = self._dataset.history(user).item_row_N[: self._split.train_end_U[user]]
        return self._sampler.draw(random, count, seen_X)

    def _kept_sizes(self) -> Int64s:
        """How many shown items of each feedview come before the user's first held-out event, [F]."""
        feedviews = self._dataset.feedviews
        feedview_S = group_of(feedviews.shown_offset_F1)
        user_S = self._user_F[feedview_S]
        kept_S = feedviews.through_S <= self._split.train_end_U[user_S]
        kept_S &= feedviews.timestamp_F[feedview_S] < self._split.test_begin_U[user_S]
        return np.bincount(feedview_S[kept_S], minlength=len(feedviews))

    def _engaged(self) -> Bools:
        """Which feedviews have an action among their kept items, [F]."""
        feedviews = self._dataset.feedviews
        feedview_S = group_of(feedviews.shown_offset_F1)
        index_S = np.arange(len(feedview_S)) - feedviews.shown_offset_F1[feedview_S]
        acted_S = (feedviews.actions_S != 0) & (index_S < self._kept_F[feedview_S])
        return np.bincount(feedview_S[acted_S], minlength=len(feedviews)) > 0
