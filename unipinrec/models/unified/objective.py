"""The model with its losses (UniPinRec §1.3 and §1.5).

Shapes: B examples, N events, T = N + 1 positions, K candidates, P positions with a target, R targets that a
position may hit, X negatives, E item width, C hidden width, A actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unipinrec.config import TrainingConfig
from unipinrec.data.blended import BlendedBatch
from unipinrec.models.common.losses import SampledSoftmax, action_loss
from unipinrec.models.common.sketch import CountMinSketch
from unipinrec.models.unified import UnifiedRecommender
from unipinrec.models.unified.targets import Targets, make_targets

NO_USER = -1
"""Whose item a random negative is."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step minimises, and its parts."""

    total: Tensor
    retrieval: Tensor
    history_actions: Tensor
    candidate_actions: Tensor

    def values(self) -> Tensor:
        """All of them, in the order of `LOSS_NAMES`, without gradients."""
        return torch.stack([getattr(self, name) for name in LOSS_NAMES]).detach()


LOSS_NAMES = ("total", "retrieval", "history_actions", "candidate_actions")


class Objective(nn.Module):
    """A batch of blended examples to `Losses`, in one forward pass."""

    def __init__(self, model: UnifiedRecommender, config: TrainingConfig, positive_mask: int) -> None:
        super().__init__()
        actions = model.config.num_actions
        if config.action_weights and len(config.action_weights) != actions:
            raise ValueError(f"action_weights has {len(config.action_weights)} values; allowed: {actions}")
        self.config = config
        self.model = model
        self.positive_mask = positive_mask
        self.softmax = SampledSoftmax()
        self.sketch = CountMinSketch(config.sketch_depth, config.sketch_width, config.seed)
        self.action_weights = config.action_weights or (1.0,) * actions

    def forward(self, batch: BlendedBatch) -> Losses:
        """Masks history actions, encodes once, and takes both losses from that one pass."""
        model, config = self.model, self.config
        real_BN = batch.event_item_BN >= 0
        masked_BN = real_BN & (torch.rand(real_BN.shape) < config.action_mask_probability)
        reading = model.read(
            self._vectors(batch.event_item_BN),
            batch.event_actions_BN,
            batch.event_timestamp_BN,
            batch.event_surface_BN,
            masked_BN,
        )
        nothing = reading.hidden_BTC.sum() * 0.0
        retrieval = history = candidates = nothing
        if config.retrieval_loss_weight > 0:
            retrieval = self._retrieval(reading.hidden_BTC, batch)
        if config.ranking_loss_weight > 0:
            hidden_BN = masked_BN if reading.action_known else real_BN
            logit_BNA = model.ranking_head(reading.action_hidden_BNC)
            history = self._actions(logit_BNA, batch.event_actions_BN, hidden_BN)
            logit_BKA = model.score_padded(
                self._vectors(batch.candidate_item_BK),
                batch.feedview_timestamp_B,
                batch.feedview_surface_B,
                reading.past_L2BHTD,
                batch.length_B,
            )
            shown_BK = batch.candidate_item_BK >= 0
            candidates = self._actions(logit_BKA, batch.candidate_actions_BK, shown_BK)
        total = config.retrieval_loss_weight * retrieval
        total = total + config.ranking_loss_weight * (history + candidates)
        return Losses(total, retrieval, history, candidates)

    def _retrieval(self, hidden_BTC: Tensor, batch: BlendedBatch) -> Tensor:
        config = self.config
        targets = make_targets(
            batch,
            self.positive_mask,
            self.model.config.time_offsets_s,
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

    def _actions(self, logit: Tensor, actions: Tensor, counted: Tensor) -> Tensor:
        bit = torch.arange(logit.size(-1))
        weight_A = torch.tensor(self.action_weights)
        return action_loss(logit, (actions.unsqueeze(-1) >> bit) & 1, counted, weight_A)
