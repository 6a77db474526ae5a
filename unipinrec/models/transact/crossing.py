"""From what is known of a candidate to one logit per action: features, crossing, heads.

Shapes: R requests, C candidates, A actions, E item width, F features, X crossed width, O encoder's output, H
hidden width of the heads.
"""

from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from typing_extensions import override

from unipinrec.models.common.features import AbsoluteTime
from unipinrec.models.common.rates.base_rates import BaseRates
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.config import SecondRankerConfig

NARROW = 128
"""Features of a product whose weights a learning rate of about 3e-3 suits."""
LOG_SCALE = 0.1
"""Brings logarithms of counts and seconds, 0 to 20, near the size of other features."""


class ContextFeatures(nn.Module):
    """Numbers and categories of candidate and request besides what the encoder reads."""

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        self.rates = config.base_rates
        self.absolute_time = AbsoluteTime(config.time_periods_s)
        self.surface = nn.Embedding(config.num_surfaces, config.surface_dim)
        nn.init.normal_(self.surface.weight, std=0.1)
        counted = 3 * (config.num_actions + 1) if config.base_rates else 0
        self.size = counted + 3 + self.absolute_time.size + config.surface_dim + config.item_dim

    def forward(self, requests: RequestBatch, candidate_CE: Tensor, request_C: Tensor) -> Tensor:
        """Return features [C, F]."""
        dtype = candidate_CE.dtype
        request_RF = self._of_requests(requests, dtype)
        parts_C = [candidate_CE, request_RF[request_C]]
        if self.rates:
            shown_C2 = torch.stack([requests.item_shown_C, requests.attribute_shown_C], dim=1)
            parts_C += [requests.item_rate_CA, requests.attribute_rate_CA, shown_C2 * LOG_SCALE]
        return torch.cat([part.to(dtype) for part in parts_C], dim=1)

    def _of_requests(self, requests: RequestBatch, dtype: torch.dtype) -> Tensor:
        events = requests.events
        length_R = events.lengths
        last_R = (events.offset_R1[1:] - 1).clamp(min=0)
        # A row behind the last one stands for users without events.
        time_N = torch.cat([events.timestamp_N, events.timestamp_N.new_zeros(1)])
        gap_R = (requests.request_time_R - time_N[last_R]).clamp(min=0) * (length_R > 0)
        log_R2 = torch.stack([gap_R, length_R], dim=1).to(dtype).log1p() * LOG_SCALE
        parts_R = [
            log_R2,
            (length_R == 0).unsqueeze(1),
            self.absolute_time(requests.request_time_R, dtype),
            self.surface(requests.request_surface_R),
        ]
        if self.rates:
            parts_R += [requests.user_rate_RA, requests.user_shown_R.unsqueeze(1) * LOG_SCALE]
        return torch.cat([part.to(dtype) for part in parts_R], dim=1)


class RateLogit(nn.Module):
    """The logit that smoothed rates alone give, and what a checkpoint has to know of them.

    At first it is the sum of what the prior, user, item and attributes say; training finds how much each
    counts.
    """

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        items, actions = config.num_items, config.num_actions
        self.weight_3A = nn.Parameter(torch.ones(3, actions))
        self.prior_A: Tensor = nn.Buffer(torch.zeros(actions))
        self.user_strength_A: Tensor = nn.Buffer(torch.ones(actions))
        self.item_rate_VA: Tensor = nn.Buffer(torch.zeros(items, actions))
        self.item_shown_V: Tensor = nn.Buffer(torch.zeros(items))
        self.attribute_rate_VA: Tensor = nn.Buffer(torch.zeros(items, actions))
        self.attribute_shown_V: Tensor = nn.Buffer(torch.zeros(items))

    @torch.no_grad()
    def keep(self, rates: BaseRates) -> None:
        """Take over the rates at the end of training."""
        for field in fields(rates):
            self.get_buffer(field.name).copy_(torch.from_numpy(getattr(rates, field.name)))

    def kept(self) -> BaseRates:
        """Return the rates at the end of training."""
        return BaseRates(**{f.name: self.get_buffer(f.name).cpu().numpy() for f in fields(BaseRates)})

    def forward(self, requests: RequestBatch, request_C: Tensor) -> Tensor:
        """Return log-odds [C, A]."""
        user_A, item_A, attribute_A = self.weight_3A
        logit_CA = self.prior_A + requests.user_rate_RA[request_C] * user_A
        return logit_CA + requests.item_rate_CA * item_A + requests.attribute_rate_CA * attribute_A


class Crossing(nn.Module):
    """Full-rank cross layers: `x0 * (W x + b) + x` (DCN V2, arXiv 2008.13535 §3)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5 * width**-0.5 * (weight.ndim > 1))

    def forward(self, features_CX: Tensor) -> Tensor:
        """Return crossed features [C, X]."""
        crossed_CX = features_CX
        for layer in self.layers:
            crossed_CX = torch.addcmul(crossed_CX, features_CX, layer(crossed_CX))
        return crossed_CX


class Narrowing(nn.Linear):
    """A product of many features, which one step of Adam changes no more than a product of `NARROW` ones.

    Adam moves every weight by about the learning rate, and so the sum by as much as there are features. Over
    a thousand of them, at a rate that suits the item vectors, moved it further than what it started as, and
    training turned off all that came behind it. Features are scaled down, and first weights up (Tensor
    Programs V, arXiv 2203.03466 §4).
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__(features, width)
        self.scale = min(1.0, NARROW / features)
        with torch.no_grad():
            self.weight /= self.scale

    @override
    def forward(self, features_CF: Tensor) -> Tensor:
        """Return narrowed features [C, X]."""
        return super().forward(features_CF * self.scale)


class Heads(nn.Module):
    """Everything known of candidates to one logit per action, which starts at what rates say."""

    def __init__(self, config: SecondRankerConfig, encoded: int, near: int) -> None:
        super().__init__()
        self.context = ContextFeatures(config)
        features = encoded + near + self.context.size
        width = config.cross_dim or features
        self.narrow = Narrowing(features, width) if config.cross_dim else nn.Identity()
        # A crossing multiplies features with one another: what is not normalised soon puts every hidden unit
        # where it has no gradient.
        self.norm_features, self.norm_crossed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.crossing = Crossing(width, config.cross_layers)
        self.hidden = nn.Linear(width, config.head_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.logit = nn.Linear(config.head_hidden, config.num_actions)
        nn.init.normal_(self.logit.weight, std=0.3 * config.head_hidden**-0.5)
        nn.init.zeros_(self.logit.bias)
        self.wide = nn.Linear(near + self.context.size, config.num_actions, bias=False)
        nn.init.zeros_(self.wide.weight)
        self.rates = RateLogit(config)
        self.starts_at_rates = config.base_rates

    def forward(
        self, encoded_CO: Tensor, near_CK: Tensor, requests: RequestBatch, candidate_CE: Tensor
    ) -> Tensor:
        """Return logits [C, A] of what an encoder read and how near candidates are to their users."""
        request_C = requests.request_of_candidate
        known_CF = torch.cat([near_CK, self.context(requests, candidate_CE, request_C)], dim=1)
        features_CX = self.norm_features(self.narrow(torch.cat([encoded_CO, known_CF], dim=1)))
        hidden_CH = gelu(self.hidden(self.norm_crossed(self.crossing(features_CX))))
        deep_CA = self.logit(self.dropout(hidden_CH))
        logit_CA = (self.wide(known_CF) + deep_CA).float()
        known_CA = self.rates(requests, request_C) if self.starts_at_rates else self.rates.prior_A
        return logit_CA + known_CA
