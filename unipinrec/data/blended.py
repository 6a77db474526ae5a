"""Blended examples, joined when read: a history and one future feedview of a user (UniPinRec §1.6).

Shapes: U users, F feedviews of all users, of one or of an example, V items, N events, T = N + 1 positions
(BOS first), K candidates, B examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from unipinrec.arrays import Int64s
from unipinrec.config import Config, Count
from unipinrec.data.feedviews import Feedview, group_of
from unipinrec.data.history import UNKNOWN_ROW
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.data.training_part import TrainingPart

LENGTH_NOISE = 8
"""Events by which a length may be misjudged when batches are made, so that they differ between epochs."""


class BlendedConfig(Config):
    """How examples are drawn."""

    max_history: Count
    """Events of a history, exactly the most recent ones. Serving keeps `max_history - window_block + 1` to
    `max_history` of them, so that every length that is served was trained."""
    last_feedview_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Chance of the user's last training feedview, which has the longest history; otherwise a feedview is
    drawn with a chance that grows with its size. Higher values train more positions per example."""
    feedviews_per_example: Annotated[int, Field(ge=1, le=64)] = 1
    """Feedviews whose candidates an example ranks: that which its history leads to, and others drawn from
    those within the history, each over what came before it. One pass over the history serves all."""
    sampled_impressions_per_feedview: Annotated[int, Field(ge=0)] = 32
    """Items added to a feedview of a dataset without impressions. More make ranking see more negatives,
    and every example costlier."""
    kept_without_engagement: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the feedviews without any action that training keeps (UniPinRec §1.6)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the choice of feedviews, the sampled impressions and the order of candidates."""


@dataclass(frozen=True, slots=True)
class BlendedExample:
    """One history and one later feedview of a user, with earlier feedviews beside it."""

    user: int
    event_item_N: Int64s
    event_actions_N: Int64s
    event_surface_N: Int64s
    event_timestamp_N: Int64s
    event_shown_N: Int64s
    """Unix seconds when the feedview of each event began."""
    feedview_timestamp_F: Int64s
    """The first is the later feedview."""
    feedview_surface_F: Int64s
    feedview_length_F: Int64s
    """Events of the history before each."""
    next_item: int
    """The later feedview's first item with a positive action, or -1."""
    next_actions: int
    candidate_item_K: Int64s
    candidate_actions_K: Int64s
    candidate_feedview_K: Int64s
    """Which of the feedviews shows each, from 0 on."""


@dataclass(frozen=True, slots=True)
class BlendedBatch:
    """Examples padded at the end: items with -1, everything else with 0. All tensors are int64."""

    event_item_BN: Tensor
    event_actions_BN: Tensor
    event_surface_BN: Tensor
    event_timestamp_BN: Tensor
    event_shown_BN: Tensor
    length_B: Tensor
    """Events of each history."""
    target_item_BT: Tensor
    """The next item of every position. Position 0 is BOS and position t is event t - 1, so position t aims at
    event t; the last event's position aims at the feedview's first item with a positive action (-1: none)."""
    target_actions_BT: Tensor
    target_timestamp_BT: Tensor
    """Unix seconds of the target: its event's, or the feedview's."""
    target_surface_BT: Tensor
    candidate_item_BK: Tensor
    candidate_actions_BK: Tensor
    candidate_feedview_BK: Tensor
    feedview_timestamp_BF: Tensor
    feedview_surface_BF: Tensor
    feedview_length_BF: Tensor
    user_B: Tensor

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return type(self)(*(getattr(self, name).to(device) for name in self.__slots__))

    def rows(self, chosen: slice) -> Self:
        """Return some of the examples, padded as all of them are."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))


class BlendedDataset(TrainingPart[BlendedExample]):
    """One example per user and epoch, from the training part of a split alone (default: leave one out).

    A feedview that reaches into the held-out events is cut before the first of them, in stored order.

    Where the dataset has no impressions (`info.sampled_impressions`; MovieLens has none), every feedview gets
    items that the user did not engage with in the training part, with actions 0: half drawn uniformly, half
    by training popularity. Without them an action that all events have would be constant. Held-out items can
    be among them, as never drawing them would tell the model which they are.

    Of feedviews without any action, a share of `kept_without_engagement` is drawn from; a user who has no
    other ones keeps them. The same seed, epoch and user give the same example.
    """

    def __init__(
        self, dataset: InteractionDataset, config: BlendedConfig, split: Split | None = None
    ) -> None:
        super().__init__(dataset, split)
        self.config = config
        self._users = np.unique(self._user_F[self._kept_F > 0])
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._users)

    def set_epoch(self, epoch: int) -> None:
        """Draw other feedviews, impressions and candidate orders from here on."""
        self._epoch = epoch

    def history_lengths(self) -> Int64s:
        """Return how many events each example's history has in this epoch, without joining the examples."""
        users = self._users.tolist()
        last = np.array(
            [self._last_feedview(self._sizes(user, r := self._random(user)), r) for user in users]
        )
        start_F, first_U = self._dataset.feedviews.start_F, self._dataset.feedviews.offset_U1
        length: Int64s = np.minimum(start_F[first_U[self._users] + last], self.config.max_history)
        return length

    def __getitem__(self, index: int) -> BlendedExample:
        user = int(self._users[index])
        random = self._random(user)
        last, *earlier = self._choose(user, random)
        history = self._dataset.history(user)
        begin = max(last.start - self.config.max_history, 0)
        window = slice(begin, last.start)
        positive = np.flatnonzero(last.actions_K & self._dataset.positive_mask)
        feedviews = (last, *earlier)
        candidates = [self._candidates(user, feedview, random) for feedview in feedviews]
        return BlendedExample(
            user=user,
            event_item_N=history.item_row_N[window],
            event_actions_N=history.actions_N[window],
            event_surface_N=history.surface_N[window],
            event_timestamp_N=history.timestamp_N[window],
            event_shown_N=self._shown_at(user, np.arange(begin, last.start)),
            feedview_timestamp_F=np.array([feedview.timestamp for feedview in feedviews], np.int64),
            feedview_surface_F=np.array([feedview.surface for feedview in feedviews], np.int64),
            feedview_length_F=np.array([feedview.start - begin for feedview in feedviews], np.int64),
            next_item=int(last.item_row_K[positive[0]]) if len(positive) else UNKNOWN_ROW,
            next_actions=int(last.actions_K[positive[0]]) if len(positive) else 0,
            candidate_item_K=np.concatenate([item_K for item_K, _ in candidates]),
            candidate_actions_K=np.concatenate([actions_K for _, actions_K in candidates]),
            candidate_feedview_K=group_of(np.cumsum([0, *(len(item_K) for item_K, _ in candidates)])),
        )

    def batches(
        self, *, batch_size: int, seed: int, workers: int = 0, draw: torch.Generator | None = None
    ) -> DataLoader[BlendedExample]:
        """Return batches (`BlendedBatch`) of all users in a random order given by `seed`.

        Histories of similar length share a batch, since padding is computed like everything else. The last
        batch made may be smaller. So many `workers` join the examples, or this process if there are none.
        PyTorch's loader draws a number from `draw`, or else from the default generator.
        """
        random = np.random.default_rng(seed)
        rough_length = self.history_lengths() + random.integers(0, LENGTH_NOISE, len(self))
        by_length = np.argsort(rough_length, kind="stable")
        batches = [
            by_length[start : start + batch_size].tolist() for start in range(0, len(self), batch_size)
        ]
        random.shuffle(batches)
        return DataLoader(
            self, batch_sampler=batches, num_workers=workers, collate_fn=collate, generator=draw
        )

    def _random(self, user: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, self._epoch, user))

    def _choose(self, user: int, random: np.random.Generator) -> list[Feedview]:
        """The later feedview, and the drawn ones within its history."""
        feedviews, begin = self._dataset.feedviews, int(self._dataset.feedviews.offset_U1[user])
        size_F = self._sizes(user, random)
        last = self._last_feedview(size_F, random)
        start_F = feedviews.start_F[begin : begin + last]
        within_F = start_F >= feedviews.start_F[begin + last] - self.config.max_history
        earlier_F = np.flatnonzero((size_F[:last] > 0) & within_F)
        count = min(self.config.feedviews_per_example - 1, len(earlier_F))
        chosen = [last, *random.choice(earlier_F, count, replace=False).tolist()] if count else [last]
        return [feedviews.view(begin + place, int(self._kept_F[begin + place])) for place in chosen]

    def _sizes(self, user: int, random: np.random.Generator) -> Int64s:
        """Items of each of the user's feedviews; 0 for one that is not drawn from in this epoch."""
        begin, end = self._dataset.feedviews.offset_U1[user : user + 2]
        kept_F = self._kept_F[begin:end]
        drawn_F = self._engaged_F[begin:end] | (
            random.random(len(kept_F)) < self.config.kept_without_engagement
        )
        return kept_F * drawn_F if (kept_F * drawn_F).any() else kept_F

    def _last_feedview(self, size_F: Int64s, random: np.random.Generator) -> int:
        """Which of the user's feedviews the history leads to."""
        if random.random() < self.config.last_feedview_probability:
            return int(np.flatnonzero(size_F)[-1])
        return int(random.choice(len(size_F), p=size_F / size_F.sum()))

    def _shown_at(self, user: int, index_N: Int64s) -> Int64s:
        """When the feedviews of a user's events began."""
        views = self._dataset.feedviews
        own = slice(*views.offset_U1[user : user + 2])
        # One that was not acted on begins as many events in as the next one.
        place_N = np.searchsorted(views.start_F[own], index_N, side="right") - 1
        shown_N: Int64s = views.timestamp_F[own][place_N]
        return shown_N

    def _candidates(
        self, user: int, feedview: Feedview, random: np.random.Generator
    ) -> tuple[Int64s, Int64s]:
        """Items and actions in random order. An item shown twice is one candidate, its actions joined."""
        item_K, index_K = np.unique(feedview.item_row_K, return_inverse=True)
        actions_K = np.zeros_like(item_K)
        np.bitwise_or.at(actions_K, index_K, feedview.actions_K)
        if self._dataset.info.sampled_impressions:
            drawn_K = self._sampled(user, self.config.sampled_impressions_per_feedview, random)
            item_K = np.concatenate([item_K, drawn_K])
            actions_K = np.concatenate([actions_K, np.zeros_like(drawn_K)])
        order_K = random.permutation(len(item_K))
        return item_K[order_K], actions_K[order_K]


def collate(examples: Sequence[BlendedExample]) -> BlendedBatch:
    """Return examples as a padded batch; N and K are the longest history and feedview among them."""
    target_time = [np.append(e.event_timestamp_N, e.feedview_timestamp_F[0]) for e in examples]
    target_surface = [np.append(e.event_surface_N, e.feedview_surface_F[0]) for e in examples]
    return BlendedBatch(
        event_item_BN=_pad([e.event_item_N for e in examples], UNKNOWN_ROW),
        event_actions_BN=_pad([e.event_actions_N for e in examples]),
        event_surface_BN=_pad([e.event_surface_N for e in examples]),
        event_timestamp_BN=_pad([e.event_timestamp_N for e in examples]),
        event_shown_BN=_pad([e.event_shown_N for e in examples]),
        length_B=torch.tensor([len(e.event_item_N) for e in examples]),
        target_item_BT=_pad([np.append(e.event_item_N, e.next_item) for e in examples], UNKNOWN_ROW),
        target_actions_BT=_pad([np.append(e.event_actions_N, e.next_actions) for e in examples]),
        target_timestamp_BT=_pad(target_time),
        target_surface_BT=_pad(target_surface),
        candidate_item_BK=_pad([e.candidate_item_K for e in examples], UNKNOWN_ROW),
        candidate_actions_BK=_pad([e.candidate_actions_K for e in examples]),
        candidate_feedview_BK=_pad([e.candidate_feedview_K for e in examples]),
        feedview_timestamp_BF=_pad([e.feedview_timestamp_F for e in examples]),
        feedview_surface_BF=_pad([e.feedview_surface_F for e in examples]),
        feedview_length_BF=_pad([e.feedview_length_F for e in examples]),
        user_B=torch.tensor([e.user for e in examples]),
    )


def _pad(rows: Sequence[Int64s], value: int = 0) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=value)
