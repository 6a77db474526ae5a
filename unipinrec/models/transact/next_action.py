"""The Next Action Loss: what is read of an event foretells the next one (TransAct V2, arXiv 2506.02267 §3.4).

Shapes: R requests of a batch, r those that one process computes, C candidates of these, N rows of a sequence
of all requests, X negatives of a request, L latest events, P = L - 1 predictions, T tokens, D token width, E
item width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unipinrec.models.common.objective import Part, Share
from unipinrec.models.transact.batch import RankingBatch, RequestBatch
from unipinrec.models.transact.config import TransactV2Config, TransactV2Training
from unipinrec.models.transact.encoder_v2 import Tokens
from unipinrec.models.transact.nearest import parts_of

EXCLUDED = -1e9
"""Score of what is no negative."""


class NextAction(nn.Module):
    """Sampled softmax of the item of the next positive event against drawn negatives.

    Predictions are made at each of the latest events that a positive one follows. Their losses are averaged
    over each candidate's positions, and over candidates. The paper sums over users and over time (§3.4) and
    leaves open how its two losses are scaled; a sum over 47 positions is larger than the loss of actions even
    at the paper's weight, 0.01.
    """

    def __init__(self, config: TransactV2Config, training: TransactV2Training, positive_mask: int) -> None:
        super().__init__()
        self.config = config
        self.training_config = training
        self.positive_mask = positive_mask
        self.predict = nn.Linear(config.row_dim, config.item_dim)

    def forward(
        self,
        tokens: Tokens,
        row_CTD: Tensor,
        batch: RankingBatch,
        part: Part,
        share: Share,
        vectors: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return what a process adds to the loss of a batch; `tokens` and rows are those of its part."""
        own = batch.rows(part.rows).requests
        target_rP, counted_rP = self.targets(own)
        negative_RX, drawn_RX = self.negatives(batch, share)
        negative_rX, drawn_rX = negative_RX[part.rows], drawn_RX[part.rows]
        hit_rX = ((negative_rX.unsqueeze(2) == target_rP.unsqueeze(1)) & counted_rP.unsqueeze(1)).any(2)
        vector_rPE, vector_rXE = vectors(target_rP), vectors(negative_rX)
        request_C = own.request_of_candidate
        predicted_CPE = self.predict(self._latest(tokens, row_CTD))
        right_CP = (predicted_CPE * vector_rPE[request_C]).sum(-1)
        wrong_CPX = torch.bmm(predicted_CPE, vector_rXE[request_C].transpose(1, 2))
        usable_rX = drawn_rX & ~hit_rX
        wrong_CPX = wrong_CPX.masked_fill(~usable_rX[request_C].unsqueeze(1), EXCLUDED)
        loss_CP = torch.cat([right_CP.unsqueeze(2), wrong_CPX], dim=2).float().logsumexp(2) - right_CP
        counted_CP = counted_rP[request_C]
        loss_C = (loss_CP * counted_CP).sum(1) / counted_CP.sum(1).clamp(min=1)
        return loss_C.sum() * part.counted / len(batch.label_CA)

    def targets(self, requests: RequestBatch) -> tuple[Tensor, Tensor]:
        """Return the item after each of the latest events but the last, [R, P], and which are positive."""
        begin_R, end_R = parts_of(requests.events.offset_R1, self.config)[2].unbind(1)
        ahead_P = torch.arange(1, self.config.latest_events, device=begin_R.device)
        place_RP = begin_R.unsqueeze(1) + ahead_P
        there_RP = place_RP < end_R.unsqueeze(1)
        # A row behind the last one stands for a batch without events.
        item_N, actions_N = (
            nn.functional.pad(rows, (0, 1))
            for rows in (requests.events.item_row_N, requests.events.actions_N)
        )
        place_RP = place_RP * there_RP
        return item_N[place_RP], there_RP & ((actions_N[place_RP] & self.positive_mask) != 0)

    def negatives(self, batch: RankingBatch, share: Share) -> tuple[Tensor, Tensor]:
        """Return items of the users' impressions, or of others' events, [R, X], and which are what they
        should be.

        They are drawn with replacement: a user's impressions may be few.
        """
        requests = batch.requests
        uniform_RX = share.random(len(batch.user_R), self.training_config.negatives).to(batch.user_R.device)
        if self.training_config.next_action_negatives == "impression":
            shown = requests.impressions
            length_R1, begin_R1 = shown.lengths.unsqueeze(1), shown.offset_R1[:-1].unsqueeze(1)
            place_RX = begin_R1 + (uniform_RX * length_R1).long()
            return _at(shown.item_row_N, place_RX * (length_R1 > 0)), (length_R1 > 0).expand_as(place_RX)
        events = requests.events
        place_RX = (uniform_RX * len(events.item_row_N)).long()
        user_N = batch.user_R.repeat_interleave(events.lengths)
        others_RX = _at(user_N, place_RX) != batch.user_R.unsqueeze(1)
        return _at(events.item_row_N, place_RX), others_RX & (len(user_N) > 0)

    def _latest(self, tokens: Tokens, row_CTD: Tensor) -> Tensor:
        """The rows of the latest events but the last, [C, P, D]."""
        ahead_P = torch.arange(self.config.latest_events - 1, device=row_CTD.device)
        place_CP = (tokens.latest_begin_C.unsqueeze(1) + ahead_P).clamp(max=row_CTD.size(1) - 1)
        return row_CTD.gather(1, place_CP.unsqueeze(2).expand(-1, -1, row_CTD.size(2)))


def _at(row_N: Tensor, place: Tensor) -> Tensor:
    """Rows at places; zeros where there are no rows at all."""
    return nn.functional.pad(row_N, (0, 1))[place]
