"""Slates that users were shown, each as one request: sequences once, candidates with what was done to them.

Shapes: U users, F feedviews, S training rows (a feedview and an item that it showed), X examples of an epoch,
R requests of a batch, C candidates of all of them, V items, A actions, E width of another model's vectors.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.config import Config, Count
from unipinrec.data.feedviews import group_of, offsets
from unipinrec.data.history import History
from unipinrec.data.impressions_log import ImpressionLog
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.data.training_part import TrainingPart
from unipinrec.models.transact.base_rates import BaseRates, user_counts
from unipinrec.models.transact.batch import NearestRows, RankingBatch, RequestBatch
from unipinrec.models.transact.rate_history import (
    WITHOUT_IMPRESSIONS,
    Judged,
    RateHistory,
    ShownRows,
    Strengths,
)
from unipinrec.models.transact.search import quantised
from unipinrec.models.transact.sequences import Limits, PackedSequences, RequestSequences

JUDGED_SHARE = 0.2
"""Of the training feedviews, the latest, by which the strengths of rates are chosen."""
MOST_JUDGED = 2_000
"""Feedviews."""


class SlateConfig(Config):
    """How examples are drawn."""

    feedviews_per_user: Count = 16
    """Most feedviews of one user in an epoch, drawn anew for each."""
    kept_without_engagement: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the feedviews without any action that an epoch may draw from. A user who has no other ones
    keeps them."""
    sampled_impressions_per_feedview: Annotated[int, Field(ge=0)] = 32
    """Items added to a feedview of a dataset without impressions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the choice of feedviews and the sampled impressions."""


class SlateExamples(TrainingPart[RankingBatch]):
    """Feedviews from the training part of a split alone (default: leave one out), some of each user an epoch.

    An item that a feedview shows twice is one candidate, its actions joined. Where the dataset has no
    impressions (`info.sampled_impressions`), candidates are added as `unipinrec.data.blended` does. Rates of
    items are those before the feedview. The same seed and epoch give the same examples.

    `vector_VE` are item vectors of another model. `nearest` finds rows that a model would else search for in
    every step, as a serving system logs them (TransAct V2 §3.5); both give the same loss.
    """

    def __init__(
        self,
        dataset: InteractionDataset,
        limits: Limits,
        config: SlateConfig,
        split: Split | None = None,
        *,
        vector_VE: Tensor | None = None,
        nearest: Callable[[RequestBatch], NearestRows] | None = None,
    ) -> None:
        """Raise `ValueError` if the vectors are not those of the dataset's items."""
        items = len(dataset.item_ids_V)
        if vector_VE is not None and len(vector_VE) != items:
            raise ValueError(f"vectors are of {len(vector_VE)} items; allowed: {items}")
        super().__init__(dataset, split)
        self.vector_VE = vector_VE
        self._limits, self._config, self._nearest = limits, config, nearest
        self._slates = _Slates.of(dataset, self._kept_F)
        self._events = _Rows.acted_on(dataset)
        log = ImpressionLog.of(dataset)
        self._impressions = _Rows(log.rows, log.offset_U1[self._user_F], log.start_F)
        self._draw = _Draw.of(self._user_F, self._kept_F > 0, self._engaged_F, config)
        self._rates = self._rate_history()
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._feedview_X)

    def __getitem__(self, chosen: Int64s) -> RankingBatch:
        feedview_R = self._feedview_X[chosen]
        slates = self._slates.taken(feedview_R)
        if self._dataset.info.sampled_impressions:
            slates = self._with_sampled(slates, feedview_R)
        sequences = self._sequences(feedview_R)
        time_C = np.repeat(sequences.request_time_R, np.diff(slates.offset_F1))
        requests = RequestBatch.of(
            sequences,
            slates.item_row_S,
            slates.offset_F1,
            self._rates.users(sequences, self._limits),
            self._rates.items(slates.item_row_S, time_C),
        )
        return RankingBatch(
            requests=requests,
            label_CA=torch.from_numpy(self._labels(slates).astype(np.float32)),
            user_R=torch.from_numpy(self._user_F[feedview_R]),
            nearest=self._nearest and self._nearest(requests),
        )

    @property
    @override
    def sha256(self) -> dict[str, str]:
        """Return the hashes of the dataset's tables, and of given vectors."""
        hashes = dict(super().sha256)
        if self.vector_VE is not None:
            # Vectors that another machine computed differ in their last bits.
            rounded = quantised(self.vector_VE).numpy()
            hashes["given_vectors"] = hashlib.sha256(rounded.tobytes()).hexdigest()
        return hashes

    def base_rates(self) -> BaseRates:
        """Return the rates at the end of training, with the prior and strengths of the examples' rates."""
        return self._rates.frozen()

    def set_epoch(self, epoch: int) -> None:
        """Draw other feedviews and sampled impressions from here on."""
        self._epoch = epoch
        self._feedview_X = self._draw.feedviews(np.random.default_rng((self._config.seed, epoch)))

    def batches(
        self, *, batch_size: int, seed: int, workers: int = 0, draw: torch.Generator | None = None
    ) -> DataLoader[Any]:
        """Return batches (`RankingBatch`) of all examples in a random order given by `seed`.

        The last one may be smaller. So many `workers` join the examples, or this process if there are none.
        PyTorch's loader draws a number from `draw`, or else from the default generator.
        """
        order_X = np.random.default_rng(seed).permutation(len(self))
        parts = [order_X[begin : begin + batch_size] for begin in range(0, len(self), batch_size)]
        # Without a batch size the loader asks for whole batches, each by its rows.
        return DataLoader(self, sampler=parts, batch_size=None, num_workers=workers, generator=draw)

    def _sequences(self, feedview_R: Int64s) -> RequestSequences:
        views = self._dataset.feedviews
        return RequestSequences(
            events=self._events.latest(feedview_R, self._limits.max_events),
            impressions=self._impressions.latest(feedview_R, self._limits.max_impressions),
            request_time_R=views.timestamp_F[feedview_R],
            request_surface_R=views.surface_F[feedview_R],
        )

    def _labels(self, slates: "_Slates") -> Bools:
        return slates.actions_S[:, None] >> np.arange(len(self._dataset.info.actions)) & 1 == 1

    def _with_sampled(self, slates: "_Slates", feedview_R: Int64s) -> "_Slates":
        count = self._config.sampled_impressions_per_feedview
        drawn = []
        for feedview, user in zip(feedview_R.tolist(), self._user_F[feedview_R].tolist(), strict=True):
            random = np.random.default_rng((self._config.seed, self._epoch, feedview))
            drawn.append(self._sampled(user, count, random))
        added_R = np.array([len(item_row) for item_row in drawn])
        request_C = np.concatenate(
            [group_of(slates.offset_F1), np.repeat(np.arange(len(feedview_R)), added_R)]
        )
        order_C = np.argsort(request_C, kind="stable")
        return _Slates(
            item_row_S=np.concatenate([slates.item_row_S, *drawn])[order_C],
            actions_S=np.concatenate([slates.actions_S, np.zeros(added_R.sum(), np.int64)])[order_C],
            offset_F1=offsets(request_C, len(feedview_R)),
        )

    def _rate_history(self) -> RateHistory:
        slates, time_F = self._slates, self._dataset.feedviews.timestamp_F
        rows = ShownRows(
            item_row_S=slates.item_row_S,
            time_S=time_F[group_of(slates.offset_F1)],
            actions_S=slates.actions_S,
        )
        history = RateHistory(rows, self._dataset.attributes_VX, self._global_rates())
        if self._dataset.info.sampled_impressions:
            history.strengths = Strengths.equal(WITHOUT_IMPRESSIONS, len(self._dataset.info.actions))
        elif len(slates.item_row_S):
            history.choose_strengths(self._judged())
        return history

    def _global_rates(self) -> Float64s:
        """Of the candidates that examples have, kept from 0 and 1 by half a row of each kind, [A]."""
        shown = len(self._slates.item_row_S)
        if self._dataset.info.sampled_impressions:
            slates = np.count_nonzero(np.diff(self._slates.offset_F1))
            shown += slates * self._config.sampled_impressions_per_feedview
        acted_A: Float64s = self._labels(self._slates).sum(axis=0) + 0.5
        return acted_A / (shown + 1)

    def _judged(self) -> Judged:
        """Feedviews of the latest part of the training time, evenly many of each part of it."""
        time_F = self._dataset.feedviews.timestamp_F
        shown_F = np.flatnonzero(np.diff(self._slates.offset_F1))
        late_F = shown_F[time_F[shown_F] >= np.quantile(time_F[shown_F], 1 - JUDGED_SHARE)]
        late_F = late_F[np.argsort(time_F[late_F], kind="stable")]
        chosen = np.linspace(0, len(late_F) - 1, min(MOST_JUDGED, len(late_F))).astype(np.int64)
        slates = self._slates.taken(late_F[chosen])
        request_C = group_of(slates.offset_F1)
        return Judged(
            item_row_C=slates.item_row_S,
            time_C=time_F[late_F[chosen]][request_C],
            request_C=request_C,
            label_CA=self._labels(slates),
            user_counts=user_counts(
                self._sequences(late_F[chosen]), self._limits, len(self._dataset.info.actions)
            ),
        )


@dataclass(frozen=True, slots=True)
class _Slates:
    """Distinct items of feedviews, with all that was done to each."""

    item_row_S: Int64s
    actions_S: Int64s
    offset_F1: Int64s

    @classmethod
    def of(cls, dataset: InteractionDataset, kept_F: Int64s) -> "_Slates":
        """Return the first `kept_F` shown items of each feedview."""
        views, items = dataset.feedviews, len(dataset.item_ids_V)
        feedview_S = group_of(views.shown_offset_F1)
        kept_S = np.arange(len(feedview_S)) - views.shown_offset_F1[feedview_S] < kept_F[feedview_S]
        key_S = (feedview_S * items + views.item_row_S)[kept_S]
        order_S = np.argsort(key_S, kind="stable")
        first_S = np.flatnonzero(np.diff(key_S[order_S], prepend=-1))
        pair_S, actions_S = key_S[order_S][first_S], views.actions_S[kept_S][order_S]
        # `reduceat` takes no empty array.
        joined_S = np.bitwise_or.reduceat(actions_S, first_S) if len(first_S) else actions_S
        return cls(pair_S % items, joined_S, offsets(pair_S // items, len(views)))

    def taken(self, feedview_R: Int64s) -> "_Slates":
        """Return some feedviews, in that order."""
        begin_R, length_R = self.offset_F1[feedview_R], np.diff(self.offset_F1)[feedview_R]
        offset_R1 = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int64)
        index_C = np.arange(offset_R1[-1]) + np.repeat(begin_R - offset_R1[:-1], length_R)
        return _Slates(self.item_row_S[index_C], self.actions_S[index_C], offset_R1)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of all users one after another, and how many of them each feedview's user has before it."""

    rows: History
    begin_F: Int64s
    count_F: Int64s

    @classmethod
    def acted_on(cls, dataset: InteractionDataset) -> "_Rows":
        """Return the events, without impressions that histories hold."""
        acted_E = dataset.actions_E != 0
        before_E1 = np.concatenate([[0], np.cumsum(acted_E)]).astype(np.int64)
        first_F = dataset.offset_U1[group_of(dataset.feedviews.offset_U1)]
        begin_F = before_E1[first_F]
        rows = History(
            item_row_N=dataset.item_row_E[acted_E],
            actions_N=dataset.actions_E[acted_E],
            timestamp_N=dataset.timestamp_E[acted_E],
            surface_N=dataset.surface_E[acted_E],
        )
        return cls(rows, begin_F, before_E1[first_F + dataset.feedviews.start_F] - begin_F)

    def latest(self, feedview_R: Int64s, most: int) -> PackedSequences:
        """Return at most so many rows before each feedview."""
        end_R = self.begin_F[feedview_R] + self.count_F[feedview_R]
        return PackedSequences.taken(self.rows, end_R - np.minimum(self.count_F[feedview_R], most), end_R)


@dataclass(frozen=True, slots=True)
class _Draw:
    """Which feedviews an epoch takes: as many of each user in every epoch."""

    user_F: Int64s
    engaged_F: Bools
    passive_F: Bools
    """Training feedviews without any action."""
    most_passive_U: Int64s
    most: int

    @classmethod
    def of(cls, user_F: Int64s, training_F: Bools, engaged_F: Bools, config: SlateConfig) -> "_Draw":
        """Settle how many feedviews without any action each user keeps, the stated share on average."""
        passive_F = training_F & ~engaged_F
        users = int(user_F.max(initial=-1)) + 1
        passive_U = np.bincount(user_F[passive_F], minlength=users)
        rounding_U = np.random.default_rng(config.seed).random(users)
        kept_U = np.floor(passive_U * config.kept_without_engagement + rounding_U).astype(np.int64)
        alone_U = np.bincount(user_F[engaged_F], minlength=users) == 0
        most_U = np.where(alone_U, passive_U, np.minimum(kept_U, passive_U))
        return cls(user_F, engaged_F, passive_F, most_U, config.feedviews_per_user)

    def feedviews(self, random: np.random.Generator) -> Int64s:
        """Draw an epoch's feedviews, in ascending order."""
        passive = self._drawn(np.flatnonzero(self.passive_F), self.most_passive_U, random)
        drawable = np.sort(np.concatenate([np.flatnonzero(self.engaged_F), passive]))
        return self._drawn(drawable, np.full_like(self.most_passive_U, self.most), random)

    def _drawn(self, feedview_X: Int64s, most_U: Int64s, random: np.random.Generator) -> Int64s:
        """At most so many of each user; the feedviews are in ascending order, and so are users."""
        user_X = self.user_F[feedview_X]
        order_X = np.lexsort((random.random(len(user_X)), user_X))
        rank_X = np.arange(len(user_X)) - np.searchsorted(user_X, user_X)
        return np.sort(feedview_X[order_X[rank_X < most_U[user_X]]])
