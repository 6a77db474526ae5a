"""Models that read histories, with their losses (UniPinRec §1.3 and §1.5).

Shapes: B examples, b those of one process, N events, T = N + 1 positions, P positions with a target, p those
of one process, R targets that a position may hit, X negatives, events or candidates, V distinct items, v
those that one process needs, A actions, E item width, C hidden width.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from unipinrec.data.blended import BlendedBatch, BlendedDataset
from unipinrec.data.past_sequences import PastSequences
from unipinrec.models.common.history_model import HistoryModel, JointModel, Reading, Shown
from unipinrec.models.common.known_items import known_items
from unipinrec.models.common.losses import SampledSoftmax, action_loss
from unipinrec.models.common.objective import WHOLE, Losses, Objective, Part, Share
from unipinrec.models.common.rates.rate_history import RateHistory
from unipinrec.models.common.rates.training_rates import training_rates
from unipinrec.models.common.sketch import CountMinSketch
from unipinrec.models.common.targets import Targets, make_targets
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import JointTraining, RetrievalTraining

NO_USER = -1
"""Whose item a random negative is."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the whole batch, and what one process computes of it."""

    batch: BlendedBatch
    masked_BN: Tensor
    """Whose actions are hidden."""
    share: Share
    part: Part
    own: BlendedBatch
    """The part's examples."""
    events: Events
    """Their histories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Targets of one process, and what is not to be retrieved at their positions."""

    targets: Targets
    position_p: Tensor
    """Index into the process's flattened [b x T] positions."""
    outcome_p: Tensor
    target_pRE: Tensor
    target_log_q_pR: Tensor
    negative_XE: Tensor
    negative_log_q_X: Tensor
    left_out_pX: Tensor


@dataclass(frozen=True, slots=True)
class Recent:
    """How much of a user rates are counted from."""

    max_events: int

    @property
    def max_impressions(self) -> int:
        """Return as many as there are events."""
        return self.max_events


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
        model.embedder.describe(known_items(examples.interactions, model.config, item_count_V))
        return cls(model, config, examples.interactions.positive_mask)

    @override
    def forward(self, batch: BlendedBatch, share: Share = WHOLE) -> Losses:
        """Mask history actions, encode once, and take every loss from that one pass."""
        real_BN = batch.event_item_BN >= 0
        part = share.part(len(real_BN))
        masked_BN = share.random(*real_BN.shape).to(real_BN.device) < self.config.action_mask_probability
        masked_BN = real_BN & masked_BN
        own, vector_bNE = batch.rows(part.rows), self._vectors(batch.event_item_BN, part, share)
        columns = (own.event_actions_BN, own.event_timestamp_BN, own.event_surface_BN)
        events = Events(vector_bNE, *columns, masked_BN[part.rows])
        return self._losses(self.model.read(events), Step(batch, masked_BN, share, part, own, events))

    def _losses(self, reading: Reading, step: Step) -> Losses:
        retrieval = self._retrieval(reading.hidden_BTC, step)
        return Losses(retrieval, {"retrieval": retrieval})

    def _retrieval(self, hidden_bTC: Tensor, step: Step) -> Tensor:
        targets = make_targets(step.batch, self.positive_mask, self.model.time_offsets_s, self.config)
        if len(targets.position_P) == 0:
            return hidden_bTC.sum() * 0.0
        if self.training:
            self.sketch.add(targets.item_PR[targets.offset_P == 0, 0])
        contrast = self._contrast(targets, step)
        return self._contrasted(hidden_bTC, contrast).sum() / len(targets.position_P)

    def _contrast(self, targets: Targets, step: Step) -> Contrast:
        """What this process's targets are contrasted with; negatives are drawn for the whole batch."""
        share, places = step.share, step.batch.target_item_BT.size(1)
        begin, end = (example * places for example in (step.part.rows.start, step.part.rows.stop))
        own_P = (targets.position_P >= begin) & (targets.position_P < end) & step.part.counted
        outcome_P = self._outcomes(targets.actions_P, share)
        negative_X, user_X = self._negatives(targets, share)
        own = targets.rows(own_P)
        vector_vE, log_q_v, place_pR, place_X = self._embedded(targets, own_P, negative_X, share)
        left_out_pX = own.user_P.unsqueeze(1) == user_X
        for target_p in own.item_PR.unbind(1):
            left_out_pX = left_out_pX | (target_p.unsqueeze(1) == negative_X)
        return Contrast(
            targets=own,
            position_p=own.position_P - begin,
            outcome_p=outcome_P[own_P],
            target_pRE=vector_vE[place_pR],
            target_log_q_pR=log_q_v[place_pR],
            negative_XE=vector_vE[place_X],
            negative_log_q_X=log_q_v[place_X],
            left_out_pX=left_out_pX,
        )

    def _contrasted(self, hidden_bTC: Tensor, contrast: Contrast) -> Tensor:
        """Loss of every target of this process, [p], at the hidden states of its positions."""
        targets = contrast.targets
        # In float32, whatever the trunk computes in.
        with torch.autocast(hidden_bTC.device.type, enabled=False):
            query_pE = self.model.retrieval_head(
                hidden_bTC.flatten(0, 1)[contrast.position_p].float(),
                targets.timestamp_P,
                targets.surface_P,
                contrast.outcome_p,
                targets.offset_P,
            )
            loss_p: Tensor = self.softmax(
                query_pE,
                contrast.target_pRE,
                contrast.target_log_q_pR,
                targets.counted_PR,
                contrast.negative_XE,
                contrast.negative_log_q_X,
                contrast.left_out_pX,
            )
        return loss_p

    def _embedded(
        self, targets: Targets, own_P: Tensor, negative_X: Tensor, share: Share
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors and log Q of every item that this process needs; places of its targets and negatives."""
        row_V, place = torch.unique(torch.cat([targets.item_PR.flatten(), negative_X]), return_inverse=True)
        hidden_V = self._hidden_ids(row_V.shape, share)
        own_pR = place[: -len(negative_X)].view_as(targets.item_PR)[own_P]
        needed_v, place = torch.unique(
            torch.cat([own_pR.flatten(), place[-len(negative_X) :]]), return_inverse=True
        )
        row_v = row_V[needed_v]
        vector_vE = self._embed(row_v, None if hidden_V is None else hidden_V[needed_v])
        return vector_vE, self._log_q(row_v), place[: own_pR.numel()].view_as(own_pR), place[own_pR.numel() :]

    def _vectors(self, item_row_BX: Tensor, part: Part, share: Share) -> Tensor:
        """Vectors [b, X, E] of the rows of this process's examples."""
        hidden_BX = self._hidden_ids(item_row_BX.shape, share)
        rows = part.rows
        return self._embed(item_row_BX[rows], None if hidden_BX is None else hidden_BX[rows])

    def _hidden_ids(self, shape: torch.Size, share: Share) -> Tensor | None:
        """Which items of the whole batch lose their ids in this step."""
        if not self.training or self.config.id_dropout == 0:
            return None
        return share.random(*shape).to(self.softmax.log_scale.device) < self.config.id_dropout

    def _embed(self, item_row: Tensor, hidden_ids: Tensor | None) -> Tensor:
        # What the item index holds is in float32.
        with torch.autocast(item_row.device.type, enabled=False):
            vector: Tensor = self.model.embedder(item_row, hidden_ids)
        return vector

    def _outcomes(self, actions_P: Tensor, share: Share) -> Tensor:
        """One of each target's positive actions, or none in particular (PinRec §2.4)."""
        count, device = self.model.config.num_actions, actions_P.device
        action_A = torch.arange(count, device=device)
        hot_PA = ((actions_P & self.positive_mask).unsqueeze(1) >> action_A) & 1
        drawn_P = (hot_PA * share.random(*hot_PA.shape).to(device)).argmax(1)
        told_P = share.random(len(actions_P)).to(device) < self.config.outcome_probability
        return torch.where(told_P, drawn_P, count)

    def _negatives(self, targets: Targets, share: Share) -> tuple[Tensor, Tensor]:
        """Item rows, and the users they come from."""
        items, device = self.model.config.num_items, targets.item_PR.device
        if self.config.full_softmax:
            return torch.arange(items, device=device), torch.full((items,), NO_USER, device=device)
        now_P = targets.offset_P == 0
        target_P, user_P = targets.item_PR[now_P, 0], targets.user_P[now_P]
        drawn = share.order(len(target_P))[: self.config.in_batch_negatives].to(device)
        random_X = share.integers(items, self.config.random_negatives).to(device)
        no_user_X = torch.full_like(random_X, NO_USER)
        return torch.cat([target_P[drawn], random_X]), torch.cat([user_P[drawn], no_user_X])

    def _log_q(self, row_X: Tensor) -> Tensor:
        """Log of the chance that one drawn negative is the item."""
        config = self.config
        if config.full_softmax:
            return torch.zeros(len(row_X), device=row_X.device)
        drawn_X = config.in_batch_negatives * self.sketch.frequency(row_X)
        drawn_X = drawn_X + config.random_negatives / self.model.config.num_items
        return (drawn_X / (config.in_batch_negatives + config.random_negatives)).log()


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
        self.rates: RateHistory | None = None
        """Rates of items as they were at any time of the training part; None: the global ones."""

    @classmethod
    @override
    def of(cls, model: HistoryModel, config: RetrievalTraining, examples: BlendedDataset) -> Self:
        """Tell the model what the examples know of items and rates, and return it with its losses."""
        objective = super().of(model, config, examples)
        past = PastSequences(examples.interactions, Recent(model.config.max_history))
        objective.rates = training_rates(examples, past, examples.config.sampled_impressions_per_feedview)
        objective.model.ranking_head.keep(objective.rates.frozen())
        return objective

    @override
    def _losses(self, reading: Reading, step: Step) -> Losses:
        config, batch = self.config, step.batch
        retrieval = history = candidates = reading.hidden_BTC.sum() * 0.0
        if config.retrieval_loss_weight > 0:
            retrieval = self._retrieval(reading.hidden_BTC, step)
        if config.ranking_loss_weight > 0:
            counted_BN = step.masked_BN if reading.action_known else batch.event_item_BN >= 0
            own, events = step.own, step.events
            rate_bNA = self._rates(own.event_item_BN, own.event_shown_BN)
            logit_bNA = self.model.score_events(rate_bNA, events, reading)
            history = self._actions(logit_bNA, batch.event_actions_BN, counted_BN, step)
            logit_bKA = self.model.score_padded(self._shown(step), events, reading)
            shown_BK = batch.candidate_item_BK >= 0
            candidates = self._actions(logit_bKA, batch.candidate_actions_BK, shown_BK, step)
        total = config.retrieval_loss_weight * retrieval
        total = total + config.ranking_loss_weight * (history + candidates)
        parts = {"retrieval": retrieval, "history_actions": history, "candidate_actions": candidates}
        return Losses(total, parts)

    def _shown(self, step: Step) -> Shown:
        """The candidates of this process's examples."""
        own = step.own
        time_bK = own.feedview_timestamp_BF.gather(1, own.candidate_feedview_BK)
        return Shown(
            vector_BKE=self._vectors(step.batch.candidate_item_BK, step.part, step.share),
            rate_BKA=self._rates(own.candidate_item_BK, time_bK),
            feedview_BK=own.candidate_feedview_BK,
            timestamp_BF=own.feedview_timestamp_BF,
            surface_BF=own.feedview_surface_BF,
            length_BF=own.feedview_length_BF,
        )

    def _rates(self, item_row_bX: Tensor, time_bX: Tensor) -> Tensor:
        """Log-odds [b, X, A] of items less the global ones, counted from what was shown before the times."""
        if self.rates is None:
            return item_row_bX.new_zeros((*item_row_bX.shape, self.model.config.num_actions)).float()
        # Padding has the rates of any item: nothing reads what comes of it.
        row_X = item_row_bX.clamp(min=0).flatten().cpu().numpy()
        known = self.rates.items(row_X, time_bX.flatten().cpu().numpy())
        rate_XA = torch.from_numpy(known.item_rate_CA + known.attribute_rate_CA)
        return rate_XA.to(item_row_bX.device).unflatten(0, item_row_bX.shape)

    def _actions(self, logit_bXA: Tensor, actions_BX: Tensor, counted_BX: Tensor, step: Step) -> Tensor:
        rows, device = step.part.rows, logit_bXA.device
        bit_A = torch.arange(logit_bXA.size(-1), device=device)
        multi_hot_bXA = (actions_BX[rows].unsqueeze(-1) >> bit_A) & 1
        weight_A = torch.tensor(self.action_weights, device=device)
        counted_bX = counted_BX[rows] & step.part.counted
        return action_loss(logit_bXA, multi_hot_bXA, counted_bX, counted_BX.sum(), weight_A)
