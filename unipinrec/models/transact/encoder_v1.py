"""What TransAct reads of a user's latest events for each candidate (arXiv 2306.00248 §3.3).

Shapes: R requests, C candidates, N rows of a sequence (padded, newest first), K first rows, D row width, S
width of an event, E item width, O = D (K + 1) or less.
"""

import torch
from torch import Tensor, nn

from unipinrec.models.transact.config import TransactConfig
from unipinrec.models.transact.layer import HIDDEN, EncoderLayer, joined

ROWS_AT_ONCE = 8192
"""Of all candidates of a group of requests."""


class EventEncoder(nn.Module):
    """Rows of events through a transformer without positions: the first rows, and the maximum over all.

    Attention weights are not dropped, unlike in PyTorch's layer.
    """

    def __init__(self, config: TransactConfig) -> None:
        super().__init__()
        self.config = config
        width = config.row_dim
        self.first, *others = (
            EncoderLayer(width, config.feedforward, config.dropout) for _ in range(config.encoder_layers)
        )
        self.others = nn.ModuleList(others)
        self.maximum = nn.Linear(width, width) if config.outputs != "first" else None
        self.size = width * ((config.outputs != "max") * config.first_rows + (config.outputs != "first"))
        if config.fusion == "append":
            self.candidate_mark = nn.Parameter(0.1 * torch.randn(config.action_dim))

    def forward(self, event_RNS: Tensor, length_R: Tensor, candidate_CE: Tensor, request_C: Tensor) -> Tensor:
        """Return [C, O]; zeros stand for rows that there are not. Padding changes nothing.

        An event is its action's embedding and its item's vector; the first `length_R` of each request are
        some. With `fusion` `append` the first row is the candidate, with a mark of its own in place of the
        action.
        """
        if event_RNS.is_cuda or len(length_R) == 1:
            return self._encoded(event_RNS, length_R, candidate_CE, request_C)
        parts, order = [], []
        for group_G in _groups(length_R, torch.bincount(request_C, minlength=len(length_R))):
            place_R = torch.full_like(length_R, -1).index_copy(0, group_G, torch.arange(len(group_G)))
            chosen_c = (place_R[request_C] >= 0).nonzero().squeeze(1)
            rows = max(int(length_R[group_G].max()), 1)
            parts.append(
                self._encoded(
                    event_RNS[group_G, :rows],
                    length_R[group_G],
                    candidate_CE[chosen_c],
                    place_R[request_C[chosen_c]],
                )
            )
            order.append(chosen_c)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _encoded(
        self, event_RNS: Tensor, length_R: Tensor, candidate_CE: Tensor, request_C: Tensor
    ) -> Tensor:
        is_event_RN = torch.arange(event_RNS.size(1), device=length_R.device) < length_R.unsqueeze(1)
        if self.config.fusion == "append":
            return self.of_rows(event_RNS, is_event_RN, candidate_CE, request_C)
        bias_RN = _bias(is_event_RN, event_RNS.dtype)
        row_CND = self.first.of_pairs(event_RNS, bias_RN, candidate_CE, request_C)
        return self._behind_first(row_CND, bias_RN[request_C], is_event_RN[request_C])

    def of_rows(
        self, event_RNS: Tensor, is_event_RN: Tensor, candidate_CE: Tensor, request_C: Tensor
    ) -> Tensor:
        """Return what `forward` does, of each candidate's rows as they are.

        No shape depends on values: a CUDA graph can hold it. Where the candidate is part of every row, a CPU
        is slower by it.
        """
        if self.config.fusion == "append":
            row_CND, is_row_CN = self._appended(event_RNS, is_event_RN, candidate_CE, request_C)
        else:
            row_CND, is_row_CN = joined(event_RNS, candidate_CE, request_C), is_event_RN[request_C]
        bias_CN = _bias(is_row_CN, row_CND.dtype)
        return self._behind_first(self.first(row_CND, bias_CN), bias_CN, is_row_CN)

    def _behind_first(self, row_CND: Tensor, bias_CN: Tensor, is_row_CN: Tensor) -> Tensor:
        for number, layer in enumerate(self.others, 1):
            last = number == len(self.others) and self.maximum is None
            row_CND = layer(row_CND, bias_CN, self.config.first_rows if last else None)
        return self._summary(row_CND, is_row_CN)

    def _appended(
        self, event_RNS: Tensor, is_event_RN: Tensor, candidate_CE: Tensor, request_C: Tensor
    ) -> tuple[Tensor, Tensor]:
        mark_CA = self.candidate_mark.expand(len(candidate_CE), -1)
        candidate_C1D = torch.cat([mark_CA.to(candidate_CE.dtype), candidate_CE], dim=1).unsqueeze(1)
        is_event_CN = is_event_RN[request_C]
        is_row_CN = torch.cat([is_event_CN.new_ones(len(candidate_CE), 1), is_event_CN], dim=1)
        return torch.cat([candidate_C1D, event_RNS[request_C]], dim=1), is_row_CN

    def _summary(self, row_CND: Tensor, is_row_CN: Tensor) -> Tensor:
        parts = []
        if self.config.outputs != "max":
            count = self.config.first_rows
            first_CKD = row_CND[:, :count] * is_row_CN[:, :count].unsqueeze(-1)
            absent = count - first_CKD.size(1)
            parts.append(nn.functional.pad(first_CKD, (0, 0, 0, absent)).flatten(1))
        if self.maximum is not None:
            highest_CD = row_CND.masked_fill(~is_row_CN.unsqueeze(-1), HIDDEN).amax(1)
            parts.append(self.maximum(highest_CD) * is_row_CN.any(1, keepdim=True))
        return torch.cat(parts, dim=1)


def _groups(length_R: Tensor, count_R: Tensor) -> list[Tensor]:
    """Requests with sequences of similar lengths, in ascending order, few enough that what is computed of
    them stays in a CPU's cache."""
    order_R = length_R.argsort()
    groups, begin, candidates = [], 0, 0
    for place, (length, count) in enumerate(
        zip(length_R[order_R].tolist(), count_R[order_R].tolist(), strict=True)
    ):
        if place > begin and (candidates + count) * length > ROWS_AT_ONCE:
            groups.append(order_R[begin:place].sort().values)
            begin, candidates = place, 0
        candidates += count
    return [*groups, order_R[begin:].sort().values]


def _bias(is_row: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores of rows, [..., N]."""
    return torch.zeros(is_row.shape, dtype=dtype, device=is_row.device).masked_fill(~is_row, HIDDEN)
