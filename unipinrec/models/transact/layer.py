"""One transformer layer of one head, normalised after each part.

Shapes: R requests, C candidates, N rows of a sequence (padded), Q rows that are asked for, D row width, S
width of what a row has of its event, T width of what it has of its candidate (D = S + T), H feed-forward
width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, relu, scaled_dot_product_attention

HIDDEN = -1e9
"""Added to the score of a row that may not be read. Finite, so that a sequence without rows stays finite."""


class SharedDropout(nn.Module):
    """Dropout of the same features in all rows of a candidate.

    Drawing for each row alone would cost as much as attention.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, row_CND: Tensor) -> Tensor:
        """Return the rows, in training without some features and with the others scaled up."""
        if not self.training or self.probability == 0:
            return row_CND
        kept_C1D = row_CND.new_ones(row_CND.size(0), 1, row_CND.size(2))
        return row_CND * dropout(kept_C1D, self.probability)


class Layer(nn.Module):
    """Attention and feed-forward network, each added to its input and then normalised.

    A `plain` one has products without biases, and normalises without weights.
    """

    def __init__(self, width: int, feedforward: int, dropped: float, plain: bool = False) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(width, 3 * width, bias=not plain)
        self.join = nn.Linear(width, width, bias=not plain)
        self.inner = nn.Linear(width, feedforward, bias=not plain)
        self.outer = nn.Linear(feedforward, width, bias=not plain)
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=not plain)
        self.norm_feedforward = nn.LayerNorm(width, elementwise_affine=not plain)
        self.dropout = SharedDropout(dropped)

    def _after_attention(self, row_CQD: Tensor, read_CQD: Tensor) -> Tensor:
        row_CQD = self.norm_attention(row_CQD + self.dropout(read_CQD))
        read_CQD = self.outer(self.dropout(relu(self.inner(row_CQD))))
        return self.norm_feedforward(row_CQD + self.dropout(read_CQD))


class EncoderLayer(Layer):
    """A layer whose rows read all rows."""

    def forward(self, row_CND: Tensor, bias_CN: Tensor, asked: int | None = None) -> Tensor:
        """Return the first `asked` rows, or all, [C, Q, D]; `bias_CN` is added to the score of each row."""
        query_CND, key_CND, value_CND = self.project(row_CND).chunk(3, dim=-1)
        row_CQD = row_CND[:, :asked]
        score_CQN = torch.baddbmm(
            bias_CN.unsqueeze(1), query_CND[:, :asked], key_CND.transpose(1, 2), alpha=self.width**-0.5
        )
        read_CQD = self.join(torch.bmm(score_CQN.softmax(-1), value_CND))
        return self._after_attention(row_CQD, read_CQD)

    def of_pairs(self, event_RNS: Tensor, bias_RN: Tensor, candidate_CT: Tensor, request_C: Tensor) -> Tensor:
        """Return the layer's rows [C, N, D] for rows that join an event of a request and a candidate of it.

        The same as `forward` on the joined rows. Queries, keys and values are sums of a part of the event,
        computed once per event, and a part of the candidate. A candidate's part of a key changes all scores
        of a row alike, so it drops out of the softmax.
        """
        scale, width = self.width**-0.5, event_RNS.size(-1)
        weight_event, weight_candidate = self.project.weight.split([width, self.width - width], dim=1)
        query_RND, key_RND, value_RND = linear(event_RNS, weight_event, self.project.bias).chunk(3, dim=-1)
        query_CD, _, value_CD = linear(candidate_CT, weight_candidate).chunk(3, dim=-1)
        score_RNN = torch.baddbmm(bias_RN.unsqueeze(1), query_RND, key_RND.transpose(1, 2), alpha=scale)
        added_CN = _of_own_request(query_CD * scale, key_RND, request_C)
        score_CNN = score_RNN[request_C] + added_CN.unsqueeze(1)
        read_RND = linear(value_RND, self.join.weight)
        read_CND = torch.bmm(score_CNN.softmax(-1), read_RND[request_C])
        read_CND = read_CND + self.join(value_CD).unsqueeze(1)
        return self._after_attention(joined(event_RNS, candidate_CT, request_C), read_CND)


class CausalLayer(Layer):
    """A plain layer whose rows read themselves and those before them."""

    def __init__(self, width: int, feedforward: int, dropped: float) -> None:
        super().__init__(width, feedforward, dropped, plain=True)

    def forward(self, row_CND: Tensor) -> Tensor:
        """Return rows [C, N, D]. Padding has to stand at the end, where no other row reads it."""
        # The fused kernel takes heads, of which there is one.
        query_C1ND, key_C1ND, value_C1ND = self.project(row_CND).unsqueeze(1).chunk(3, dim=-1)
        read_CND = scaled_dot_product_attention(query_C1ND, key_C1ND, value_C1ND, is_causal=True).squeeze(1)
        return self._after_attention(row_CND, self.join(read_CND))


def joined(event_RNS: Tensor, candidate_CT: Tensor, request_C: Tensor) -> Tensor:
    """Return rows [C, N, D] of every candidate: those of its request, each with the candidate behind."""
    event_CNS = event_RNS[request_C]
    return torch.cat([event_CNS, candidate_CT.unsqueeze(1).expand(-1, event_CNS.size(1), -1)], dim=-1)


def _of_own_request(query_CD: Tensor, key_RND: Tensor, request_C: Tensor) -> Tensor:
    """Inner products [C, N] of each candidate's query with the keys of its request.

    Candidates are padded per request, since a copy of the keys for each of them would be far larger.
    """
    count_R = torch.bincount(request_C, minlength=len(key_RND))
    place_C = torch.arange(len(request_C), device=request_C.device) - (count_R.cumsum(0) - count_R)[request_C]
    query_RKD = query_CD.new_zeros(len(key_RND), int(count_R.max()), query_CD.size(-1))
    query_RKD = query_RKD.index_put((request_C, place_C), query_CD)
    return torch.bmm(query_RKD, key_RND.transpose(1, 2))[request_C, place_C]
