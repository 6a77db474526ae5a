"""A model with both heads, with both of its losses (UniPinRec §1.3 and §1.5).

Shapes: B examples, N events, X events or candidates, K candidates, A actions.
"""

import torch
from torch import Tensor
from typing_extensions import override

from unipinrec.data.blended import BlendedBatch
from unipinrec.models.common.history_model import Reading
from unipinrec.models.common.joint_model import JointModel
from unipinrec.models.common.losses import action_loss
from unipinrec.models.common.objective import Losses
from unipinrec.models.common.retrieval_objective import RetrievalObjective
from unipinrec.models.config import JointTraining


class JointObjective(RetrievalObjective):
    """Retrieval, the actions of masked events, and the actions of candidates, from one pass.

    Raises:
        ValueError: `action_weights` are not as many as the model's actions.
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
    def _losses(self, reading: Reading, batch: BlendedBatch, masked_BN: Tensor) -> Losses:
        config = self.config
        retrieval = history = candidates = reading.hidden_BTC.sum() * 0.0
        if config.retrieval_loss_weight > 0:
            retrieval = self._retrieval(reading.hidden_BTC, batch)
        if config.ranking_loss_weight > 0:
            hidden_BN = masked_BN if reading.action_known else batch.event_item_BN >= 0
            logit_BNA = self.model.ranking_head(reading.action_hidden_BNC)
            history = self._actions(logit_BNA, batch.event_actions_BN, hidden_BN)
            logit_BKA = self.model.score_padded(
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
        parts = {"retrieval": retrieval, "history_actions": history, "candidate_actions": candidates}
        return Losses(total, parts)

    def _actions(self, logit_BXA: Tensor, actions_BX: Tensor, counted_BX: Tensor) -> Tensor:
        bit_A = torch.arange(logit_BXA.size(-1))
        multi_hot_BXA = (actions_BX.unsqueeze(-1) >> bit_A) & 1
        return action_loss(logit_BXA, multi_hot_BXA, counted_BX, torch.tensor(self.action_weights))
