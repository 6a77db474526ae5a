"""What both second rankers minimise.

Shapes: R requests, C candidates, A actions, H heads (one for each action), V items.
"""

from dataclasses import replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from unipinrec.models.common.known_items import known_items
from unipinrec.models.common.objective import WHOLE, Losses, Objective, Part, Share
from unipinrec.models.transact.batch import RankingBatch
from unipinrec.models.transact.config import TransactTraining, TransactV2Training
from unipinrec.models.transact.examples import SlateExamples
from unipinrec.models.transact.module import SecondRanker, TransAct, TransActV2
from unipinrec.models.transact.next_action import NextAction
from unipinrec.models.transact.search import quantised

M = TypeVar("M", bound=SecondRanker)
T = TypeVar("T", bound=TransactTraining)


class ActionObjective(Objective, Generic[M, T]):
    """Cross-entropy of every action, summed over actions and averaged over the candidates of a batch."""

    label_weight_HA: Tensor | None

    def __init__(self, model: M, config: T, actions: tuple[str, ...]) -> None:
        super().__init__(model)
        self.model: M = model
        self.config = config
        self.actions = actions
        weight_HA = torch.tensor(config.label_weights) if config.label_weights else None
        if weight_HA is not None and weight_HA.shape != (len(actions), len(actions)):
            raise ValueError(
                f"label_weights has shape {tuple(weight_HA.shape)}; allowed: {(len(actions),) * 2}"
            )
        self.register_buffer("label_weight_HA", weight_HA, persistent=False)

    def _cross_entropy(self, logit_cA: Tensor, own: RankingBatch, whole: RankingBatch, part: Part) -> Losses:
        weight_cH = label_weights(own.label_CA, self.label_weight_HA)
        loss_cH = binary_cross_entropy_with_logits(logit_cA, own.label_CA, weight_cH, reduction="none")
        loss_H = loss_cH.sum(0) * part.counted / len(whole.label_CA)
        return Losses(loss_H.sum(), dict(zip(self.actions, loss_H, strict=True)))

    def _hidden_ids(self, share: Share, device: torch.device) -> Tensor | None:
        """Which items lose their ids in this step, [V]."""
        if not self.training or self.config.id_dropout == 0:
            return None
        return share.random(self.model.config.num_items).to(device) < self.config.id_dropout


def describe(model: SecondRanker, examples: SlateExamples) -> None:
    """Tell a model what the examples know of items and rates.

    Given vectors are content, in numbers near 1 as the dataset's own.
    """
    count_V = torch.from_numpy(examples.item_counts())
    catalogue = known_items(examples.interactions, model.config, count_V)
    if examples.vector_VE is not None:
        given_VE = examples.vector_VE * examples.vector_VE.size(1) ** 0.5
        catalogue = replace(catalogue, content_VF=torch.cat([catalogue.content_VF, given_VE], dim=1))
    model.embedder.describe(catalogue)
    model.heads.rates.keep(examples.base_rates())


def label_weights(label_CA: Tensor, weight_HA: Tensor | None) -> Tensor | None:
    """Return the weight of each head's loss for each candidate, `max(1, sum over a of M[h, a] y_a)`, [C, H]
    (TransAct §3.1, which does not say what a candidate without actions weighs)."""
    return None if weight_HA is None else (label_CA @ weight_HA.T).clamp(min=1)


class TransactObjective(ActionObjective[TransAct, TransactTraining]):
    """TransAct's loss, with a random time window before each request hidden from it."""

    @classmethod
    def of(cls, model: TransAct, config: TransactTraining, examples: SlateExamples) -> Self:
        """Tell the model what the examples know of items and rates, and return it with its loss."""
        describe(model, examples)
        return cls(model, config, examples.interactions.info.actions)

    @override
    def forward(self, batch: RankingBatch, share: Share = WHOLE) -> Losses:
        """Return the losses of a batch, by action."""
        part = share.part(len(batch.user_R))
        own, device = batch.rows(part.rows), batch.label_CA.device
        hidden_V = self._hidden_ids(share, device)
        hidden_s_r = None
        if self.training and self.config.time_window_s > 0:
            drawn_R = share.random(len(batch.user_R)).to(device)
            hidden_s_r = (drawn_R[part.rows] * self.config.time_window_s).long()
        return self._cross_entropy(self.model(own.requests, hidden_s_r, hidden_V), own, batch, part)


class TransactV2Objective(ActionObjective[TransActV2, TransactV2Training]):
    """TransAct V2's losses: that of actions, and the Next Action Loss."""

    def __init__(
        self, model: TransActV2, config: TransactV2Training, actions: tuple[str, ...], positive_mask: int
    ) -> None:
        super().__init__(model, config, actions)
        self.next_action: NextAction | None = None
        if config.next_action_weight > 0 and config.next_action_negatives != "none":
            self.next_action = NextAction(model.config, config, positive_mask)

    @classmethod
    def of(cls, model: TransActV2, config: TransactV2Training, examples: SlateExamples) -> Self:
        """Tell the model what the examples know, and return it with its losses.

        Raises `ValueError` if the examples have no vectors of another model, by which to search.
        """
        describe(model, examples)
        if examples.vector_VE is None:
            raise ValueError("vectors are missing; TransAct V2 searches by those of another model")
        if examples.vector_VE.shape != model.search_VW.shape:
            given, own = tuple(examples.vector_VE.shape), tuple(model.search_VW.shape)
            raise ValueError(f"vectors have shape {given}; allowed: {own}")
        model.search_VW.copy_(quantised(examples.vector_VE))
        dataset = examples.interactions
        return cls(model, config, dataset.info.actions, dataset.positive_mask)

    @override
    def forward(self, batch: RankingBatch, share: Share = WHOLE) -> Losses:
        """Return the losses of a batch, by action, and of next actions."""
        part = share.part(len(batch.user_R))
        own, hidden_V = batch.rows(part.rows), self._hidden_ids(share, batch.label_CA.device)
        ranked = self.model.ranked(own.requests, own.nearest, hidden_V)
        losses = self._cross_entropy(ranked.logit_CA, own, batch, part)
        if self.next_action is None:
            return losses
        next_action = self.next_action(
            ranked.tokens,
            ranked.row_CTD,
            batch,
            part,
            share,
            lambda row: self.model.vectors(row.flatten(), hidden_V).unflatten(0, row.shape),
        )
        total = losses.total + self.config.next_action_weight * next_action
        return Losses(total, losses.parts | {"next_action": next_action})
