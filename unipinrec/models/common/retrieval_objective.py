"""A model that reads histories, with its retrieval loss (UniPinRec §1.5).

Shapes: B examples, N events, T = N + 1 positions, P positions with a target, R targets that a position may
hit, X negatives, A actions, E item width, C hidden width.
"""

from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from unipinrec.data.blended import BlendedBatch, BlendedDataset
from unipinrec.models.common.catalogue import Catalogue
from unipinrec.models.common.history_model import HistoryModel, Reading
from unipinrec.models.common.losses import SampledSoftmax
from unipinrec.models.common.objective import Losses, Objective
from unipinrec.models.common.sketch import CountMinSketch
from unipinrec.models.common.targets import Targets, make_targets
from unipinrec.models.config import RetrievalTraining

NO_USER = -1
"""Whose item a random negative is."""


class RetrievalObjective(Objective):
    """The retrieval loss of a batch of blended examples, in one forward pass."""

    def __init__(self, model: HistoryModel, config: RetrievalTraining, positive_mask: int) -> None:
        super().__init__(model)
        self.config = config
        self.model: HistoryModel = model
        self.positive_mask = positive_mask
        self.softmax = SampledSoftmax()
        self.sketch = CountMinSketch(config.sketch_depth, config.sketch_width, config.seed)

    @classmethod
    def of(cls, model: HistoryModel, config: RetrievalTraining, examples: BlendedDataset) -> Self:
        """Tell the model's embedder what the examples know of items, and return the model with its losses."""
        item_count_V = torch.from_numpy(examples.item_counts())
        model.embedder.describe(Catalogue.of_dataset(examples.interactions, model.config, item_count_V))
        return cls(model, config, examples.interactions.positive_mask)

    @override
    def forward(self, batch: BlendedBatch) -> Losses:
        """Mask history actions, encode once, and take every loss from that one pass."""
        real_BN = batch.event_item_BN >= 0
        masked_BN = real_BN & (torch.rand(real_BN.shape) < self.config.action_mask_probability)
        reading = self.model.read(
            self._vectors(batch.event_item_BN),
            batch.event_actions_BN,
            batch.event_timestamp_BN,
            batch.event_surface_BN,
            masked_BN,
        )
        return self._losses(reading, batch, masked_BN)

    def _losses(self, reading: Reading, batch: BlendedBatch, masked_BN: Tensor) -> Losses:
        del masked_BN
        retrieval = self._retrieval(reading.hidden_BTC, batch)
        return Losses(retrieval, {"retrieval": retrieval})

    def _retrieval(self, hidden_BTC: Tensor, batch: BlendedBatch) -> Tensor:
        config = self.config
        targets = make_targets(
            batch,
            self.positive_mask,
            self.model.time_offsets_s,
            config.relaxation_targets,
            config.session_gap_s,
        )
        if len(targets.position_P) == 0:
            return hidden_BTC.sum() * 0.0
        query_PE = self.model.retrieval_head(
            hidden_BTC.flatten(0, 1)[targets.position_P],
            targets.timestamp_P,
            targets.surface_P,
            self._outcomes(targets.actions_P),
            targets.offset_P,
        )
        now_P = targets.offset_P == 0
        if self.training:
            self.sketch.add(targets.item_PR[now_P, 0])
        negative_X, user_X = self._negatives(targets, now_P)
        rows, place = torch.unique(torch.cat([targets.item_PR.flatten(), negative_X]), return_inverse=True)
        vectors, log_q = self._vectors(rows), self._log_q(rows)
        place_PR, place_X = place[: -len(negative_X)].view_as(targets.item_PR), place[-len(negative_X) :]
        left_out_PX = targets.user_P.unsqueeze(1) == user_X
        for target_P in targets.item_PR.unbind(1):
            left_out_PX = left_out_PX | (target_P.unsqueeze(1) == negative_X)
        loss: Tensor = self.softmax(
            query_PE,
            vectors[place_PR],
            log_q[place_PR],
            targets.counted_PR,
            vectors[place_X],
            log_q[place_X],
            left_out_PX,
        )
        return loss

    def _vectors(self, item_row: Tensor) -> Tensor:
        vector: Tensor = self.model.embedder(item_row, self.config.id_dropout if self.training else 0.0)
        return vector

    def _outcomes(self, actions_P: Tensor) -> Tensor:
        """One of each target's positive actions, or none in particular (PinRec §2.4)."""
        count = self.model.config.num_actions
        hot_PA = ((actions_P & self.positive_mask).unsqueeze(1) >> torch.arange(count)) & 1
        drawn_P = (hot_PA * torch.rand(hot_PA.shape)).argmax(1)
        told_P = torch.rand(len(actions_P)) < self.config.outcome_probability
        return torch.where(told_P, drawn_P, count)

    def _negatives(self, targets: Targets, now_P: Tensor) -> tuple[Tensor, Tensor]:
        """Item rows, and the users they come from."""
        items = self.model.config.num_items
        if self.config.full_softmax:
            return torch.arange(items), torch.full((items,), NO_USER)
        target_P, user_P = targets.item_PR[now_P, 0], targets.user_P[now_P]
        drawn = torch.randperm(len(target_P))[: self.config.in_batch_negatives]
        random_X = torch.randint(items, (self.config.random_negatives,))
        no_user_X = torch.full_like(random_X, NO_USER)
        return torch.cat([target_P[drawn], random_X]), torch.cat([user_P[drawn], no_user_X])

    def _log_q(self, row_X: Tensor) -> Tensor:
        """Log of the chance that one drawn negative is the item."""
        config = self.config
        if config.full_softmax:
            return torch.zeros(len(row_X))
        drawn_X = config.in_batch_negatives * self.sketch.frequency(row_X)
        drawn_X = drawn_X + config.random_negatives / self.model.config.num_items
        return (drawn_X / (config.in_batch_negatives + config.random_negatives)).log()
