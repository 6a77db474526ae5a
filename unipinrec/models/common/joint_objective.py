"""A model with both heads, with both of its losses (UniPinRec §1.3 and §1.5).

Shapes: B examples, b those of one process, N events, X events or candidates, A actions.
"""

import torch
from torch import Tensor
from typing_extensions import override

from unipinrec.models.common.history_model import Reading
from unipinrec.models.common.joint_model import JointModel
from unipinrec.models.common.losses import action_loss
from unipinrec.models.common.objective import Losses
from unipinrec.models.common.retrieval_objective import RetrievalObjective, Step
from unipinrec.models.config import JointTraining


class JointObjective(RetrievalObjective):
    """Retrieval, the actions of masked events, and the actions of candidates, from one pass.

    Raises `ValueError` if `action_weights` are not as many as the model's actions.
    """

    def __init__(self, model: JointModel, config: JointTraining, positive_mask: int) -> None:
        super().__init__(model, config, positive_mask)
        actions = model.config.num_actions
        if config.action_weights and len(config.action_weights) != actions:
            raise ValueError(f"action_weights has {len(config.action_weights)} values; allowed: {actions}")
        self.config: JointTraining = config
        self.model: JointModel = model
        self.action_weights = config.action_weights or (1.0,) * actions

    @override
    def _losses(self, reading: Reading, step: Step) -> Losses:
        config, batch = self.config, step.batch
        retrieval = history = candidates = reading.hidden_BTC.sum() * 0.0
        if config.retrieval_loss_weight > 0:
            retrieval = self._retrieval(reading.hidden_BTC, step)
        if config.ranking_loss_weight > 0:
            counted_BN = step.masked_BN if reading.action_known else batch.event_item_BN >= 0
            logit_bNA = self.model.ranking_head(reading.action_hidden_BNC)
            history = self._actions(logit_bNA, batch.event_actions_BN, counted_BN, step)
            own, vector_bKE = step.own, self._vectors(batch.candidate_item_BK, step)
            context = (own.feedview_timestamp_B, own.feedview_surface_B)
            logit_bKA = self.model.score_padded(vector_bKE, *context, reading.past_L2BHTD, own.length_B)
            shown_BK = batch.candidate_item_BK >= 0
            candidates = self._actions(logit_bKA, batch.candidate_actions_BK, shown_BK, step)
        total = config.retrieval_loss_weight * retrieval
        total = total + config.ranking_loss_weight * (history + candidates)
        parts = {"retrieval": retrieval, "history_actions": history, "candidate_actions": candidates}
        return Losses(total, parts)

    def _actions(self, logit_bXA: Tensor, actions_BX: Tensor, counted_BX: Tensor, step: Step) -> Tensor:
        rows, device = step.part.rows, logit_bXA.device
        bit_A = torch.arange(logit_bXA.size(-1), device=device)
        multi_hot_bXA = (actions_BX[rows].unsqueeze(-1) >> bit_A) & 1
        weight_A = torch.tensor(self.action_weights, device=device)
        counted_bX = counted_BX[rows] & step.part.counted
        return action_loss(logit_bXA, multi_hot_bXA, counted_bX, counted_BX.sum(), weight_A)
