"""The unified model's losses: both stages', and that of a second query embedding.

Shapes: b examples that one process computes, N events, T = N + 1 positions, P positions with a target, p
those of one process, C hidden width, E item width.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from unipinrec.models.common.history_model import Reading
from unipinrec.models.common.history_objective import JointObjective, Step
from unipinrec.models.common.objective import Losses
from unipinrec.models.common.targets import make_targets
from unipinrec.models.unified.config import UnifiedTraining
from unipinrec.models.unified.module import UnifiedRecommender


class UnifiedObjective(JointObjective):
    """The losses of `JointObjective`, and of a query embedding that is made after another was fed back."""

    def __init__(self, model: UnifiedRecommender, config: UnifiedTraining, positive_mask: int) -> None:
        super().__init__(model, config, positive_mask)
        self.config: UnifiedTraining = config
        self.model: UnifiedRecommender = model

    @override
    def _losses(self, reading: Reading, step: Step) -> Losses:
        losses = super()._losses(reading, step)
        if self.config.second_step_weight == 0:
            return losses
        second = self._second_step(reading, step)
        total = losses.total + self.config.second_step_weight * second
        return Losses(total, {**losses.parts, "second_step": second})

    def _second_step(self, reading: Reading, step: Step) -> Tensor:
        """Minus the log of the chance that one of both embeddings, drawn evenly, finds the target.

        The first is left as it is: what it finds already moves the second little.
        """
        hidden_bTC = reading.hidden_BTC
        offsets_s = (0, *self.config.second_step_offsets_s)
        targets = make_targets(step.batch, self.positive_mask, offsets_s, self.config)
        if len(targets.position_P) == 0:
            return hidden_bTC.sum() * 0.0
        # All are sought by immediate embeddings.
        targets = replace(targets, offset_P=torch.zeros_like(targets.offset_P))
        contrast = self._contrast(targets, step)
        first_p = self._contrasted(hidden_bTC, contrast).detach()
        second_p = self._contrasted(self._fed_back(reading, step), contrast)
        found_p = torch.logaddexp(-first_p, -second_p) - math.log(2)
        return -found_p.sum() / len(targets.position_P)

    def _fed_back(self, reading: Reading, step: Step) -> Tensor:
        """Hidden states [b, T, C] of each position's immediate query embedding, fed back as an event."""
        model, own, hidden_bTC = self.model, step.own, reading.hidden_BTC
        time_bT, surface_bT = own.target_timestamp_BT, own.target_surface_BT
        nothing_bT = torch.zeros_like(time_bT)
        any_outcome_bT = torch.full_like(time_bT, model.config.num_actions)
        with torch.no_grad(), torch.autocast(hidden_bTC.device.type, enabled=False):
            query_bTE = model.retrieval_head(
                hidden_bTC.float(), time_bT, surface_bT, any_outcome_bT, nothing_bT
            )
        position_T = torch.arange(time_bT.size(1), device=time_bT.device)
        previous_bT = torch.cat([nothing_bT[:, :1], own.event_timestamp_BN], dim=1)
        token_bTC = model.tokenizer.packed(
            query_bTE,
            nothing_bT,
            nothing_bT == 0,
            time_bT,
            previous_bT,
            surface_bT,
            (position_T + 1).expand_as(time_bT),
        )
        later_bTT = (position_T > position_T.unsqueeze(1)).expand(len(time_bT), -1, -1)
        return model.trunk.candidates(token_bTC, reading.past_L2BHTD, later_bTT)
