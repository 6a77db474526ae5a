"""Both second rankers over batches whose shapes no value changes, as a CUDA graph wants them.

Such a batch is padded by two requests behind the others: one has the rows that are left over and no
candidates, the other the candidates that are left over and no rows. Requests do not see one another, so
neither changes an answer.

Shapes: R requests, N rows of a sequence of all requests, n rows of one (padded, newest first), C candidates,
T tokens, U = C T, A actions, K kinds of vector, E item width, D token width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unipinrec.models.transact.batch import PackedEvents, RequestBatch
from unipinrec.models.transact.encoder_v2 import LifelongEncoder, Tokens, action_embedding
from unipinrec.models.transact.interests import Interests
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.nearest import Search, nearest_rows

Encode = Callable[[Tensor, Tensor], Tensor]
"""Tokens [C, T, D] and how many of each candidate count [C] to the encoded ones, of which the others may be
any finite ones."""


class FixedTransAct:
    """TransAct's probabilities."""

    def __init__(self, model: TransAct) -> None:
        self._model = model

    def __call__(self, requests: RequestBatch) -> Tensor:
        """Return what the model's sigmoid is, [C, A]."""
        model, events = self._model, requests.events
        candidate_CE = model.vectors(requests.candidate_item_C)
        place_Rn, is_event_Rn = newest(events, model.config.max_events)
        action_RnX = action_embedding(events.actions_N[place_Rn], model.actions)
        event_RnS = torch.cat([action_RnX, model.vectors(events.item_row_N[place_Rn])], dim=-1)
        encoded_CO = model.encoder.of_rows(
            event_RnS, is_event_Rn, candidate_CE, requests.request_of_candidate
        )
        near_CK = _near(model, requests, candidate_CE, model.config.max_events)
        return torch.sigmoid(model.heads(encoded_CO, near_CK, requests, candidate_CE))


class FixedTransActV2:
    """TransAct V2's probabilities."""

    def __init__(self, model: TransActV2, search: Search, encode: Encode) -> None:
        """`encode` stands for the layers of the model's encoder."""
        self._model = model
        self._search = search
        self._encode = encode

    def __call__(self, requests: RequestBatch) -> Tensor:
        """Return what the model's sigmoid is, [C, A]."""
        model, encoder = self._model, self._model.encoder
        nearest = nearest_rows(requests, model.search_VW, model.config, self._search)
        tokens = Tokens.of(requests, nearest, model.config, fixed=True)
        candidate_CE = model.vectors(requests.candidate_item_C)
        # Not each row once, as many as there may be, but those that are read.
        feature_UD = encoder.features(tokens.row_CT.flatten(), requests, model.vectors)
        place_CT = torch.arange(len(feature_UD), device=feature_UD.device).view_as(tokens.row_CT)
        token_CTD = encoder.rows(feature_UD, place_CT, tokens.slot_CT, candidate_CE)
        encoded_CD = encoder.summarised(self._encode(token_CTD, tokens.length_C), tokens.length_C)
        near_CK = _near(model, requests, candidate_CE, model.config.realtime_events)
        if model.nearest_actions is not None:
            acted_CK = model.nearest_actions(requests, nearest, candidate_CE, model.vectors)
            near_CK = torch.cat([near_CK, acted_CK], dim=1)
        return torch.sigmoid(model.heads(encoded_CD, near_CK, requests, candidate_CE))


def layers_of(encoder: LifelongEncoder) -> Encode:
    """Return what an encoder computes by PyTorch."""

    def encode(token_CTD: Tensor, length_C: Tensor) -> Tensor:
        del length_C
        for layer in encoder.layers:
            token_CTD = layer(token_CTD)
        return token_CTD

    return encode


def newest(rows: PackedEvents, most: int) -> tuple[Tensor, Tensor]:
    """Return where the latest rows of each request are, the newest first, and which are there, [R, n]."""
    back_n = torch.arange(most, device=rows.offset_R1.device)
    is_there_Rn = back_n < rows.lengths.unsqueeze(1)
    return (rows.offset_R1[1:].unsqueeze(1) - 1 - back_n) * is_there_Rn, is_there_Rn


def _near(
    model: TransAct | TransActV2, requests: RequestBatch, candidate_CE: Tensor, most_events: int
) -> Tensor:
    """What `Interests` says of the latest events and impressions, [C, 2 K]."""
    interests: Interests = model.interests
    bit_A = torch.arange(model.config.num_actions, device=candidate_CE.device)
    sums, weights = [], []
    for rows, most in (
        (requests.events, most_events),
        (requests.impressions, model.config.max_impressions),
    ):
        place_Rn, is_there_Rn = newest(rows, most)
        actions_Rn1 = rows.actions_N[place_Rn].unsqueeze(-1)
        hot_RnA = (actions_Rn1 >> bit_A) & 1 if rows is requests.events else (actions_Rn1 == 0).long()
        age_Rn = requests.request_time_R.unsqueeze(1) - rows.timestamp_N[place_Rn]
        weight_RnK = interests.weights(hot_RnA * is_there_Rn.unsqueeze(-1), age_Rn)
        vector_RnE = model.vectors(rows.item_row_N[place_Rn])
        sums.append(torch.bmm(weight_RnK.transpose(1, 2), vector_RnE))
        weights.append(weight_RnK.sum(1))
    return interests.compared(
        torch.cat(sums, dim=1), torch.cat(weights, dim=1), requests.request_of_candidate, candidate_CE
    )
