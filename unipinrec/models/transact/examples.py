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

from unipinrec.arrays import Bools, Int64s
from unipinrec.config import Config, Count
from unipinrec.data.feedviews import group_of, offsets
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.data.past_sequences import PastSequences
from unipinrec.data.sequences import Limits
from unipinrec.data.slates import Slates
from unipinrec.data.training_part import TrainingPart
from unipinrec.models.common.rates.base_rates import BaseRates
from unipinrec.models.common.rates.training_rates import training_rates
from unipinrec.models.transact.batch import NearestRows, RankingBatch, RequestBatch
from unipinrec.models.transact.search import quantised


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
        self._past = PastSequences(dataset, limits)
        self._draw = _Draw.of(self._user_F, self._kept_F > 0, self._engaged_F, config)
        self._rates = training_rates(self, self._past, config.sampled_impressions_per_feedview)
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._feedview_X)

    def __getitem__(self, chosen: Int64s) -> RankingBatch:
        feedview_R = self._feedview_X[chosen]
        slates = self.slates.taken(feedview_R)
        if self._dataset.info.sampled_impressions:
            slates = self._with_sampled(slates, feedview_R)
        sequences = self._past.before(feedview_R)
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
            label_CA=torch.from_numpy(slates.labels(len(self._dataset.info.actions)).astype(np.float32)),
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

    def _with_sampled(self, slates: Slates, feedview_R: Int64s) -> Slates:
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
        return Slates(
            item_row_S=np.concatenate([slates.item_row_S, *drawn])[order_C],
            actions_S=np.concatenate([slates.actions_S, np.zeros(added_R.sum(), np.int64)])[order_C],
            offset_F1=offsets(request_C, len(feedview_R)),
        )


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
