"""How near a candidate is to what its user did, by action and by how long ago, and how often users act.

The trunk's attention gives means of values whatever their number, and knows the time between an event and a
request by learned features alone. Here every event counts, less with its age, as HSTU's pointwise attention
does (arXiv 2402.17152 §3.2) and PinnerFormer's user vector stands beside TransAct (arXiv 2306.00248 §3.2).

Shapes: B requests, K candidates, N events, A actions, X = A + 2 kinds of events, D half-lives, F features,
E item width.
"""

import torch
from torch import Tensor, nn

from unipinrec.models.common.features import multi_hot_actions
from unipinrec.models.common.rates.base_rates import BaseRates
from unipinrec.models.config import JointConfig

NEAR_SCALE = 3.0
"""Brings means of cosines near the size of a normalised hidden state."""


class Affinity(nn.Module):
    """Features of candidates over the events that each may see.

    For each half-life: the candidate's mean inner product with the items of each action's events, and with
    those of events without any action, and how many events these means are made of; for the longest, the
    user's rates. It has no weights: heads learn what features mean.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.num_actions, self.near_scale = config.num_actions, NEAR_SCALE
        half_life_D = torch.tensor(config.half_lives_s, dtype=torch.float32)
        self.half_life_D: Tensor = nn.Buffer(half_life_D, persistent=False)
        self.size = 2 * len(half_life_D) * (config.num_actions + 1) + config.num_actions
        self.prior_A: Tensor = nn.Buffer(torch.zeros(config.num_actions))
        self.user_strength_A: Tensor = nn.Buffer(torch.ones(config.num_actions))

    @torch.no_grad()
    def keep(self, rates: BaseRates) -> None:
        """Take over the global rates, and how strongly those of users are pulled towards them."""
        self.prior_A.copy_(torch.from_numpy(rates.prior_A))
        self.user_strength_A.copy_(torch.from_numpy(rates.user_strength_A))

    def kinds(self, actions_BN: Tensor, masked_BN: Tensor) -> Tensor:
        """Return which kinds events are of, [B, N, X]: each action, none, and any; masked ones are of no
        kind."""
        hot_BNA = multi_hot_actions(actions_BN, masked_BN, self.num_actions)[..., : self.num_actions]
        any_BN1 = (~masked_BN).unsqueeze(-1).to(hot_BNA.dtype)
        none_BN1 = any_BN1 * (hot_BNA.sum(-1, keepdim=True) == 0)
        return torch.cat([hot_BNA, none_BN1, any_BN1], dim=-1)

    def of_requests(
        self,
        candidate_BKE: Tensor,
        time_B: Tensor,
        event_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        padding_BN: Tensor,
    ) -> Tensor:
        """Return features [B, K, F] where all candidates of a request see its whole history, as serving does;
        `padding_BN` are booleans. Sums over events are made once, and not for each candidate."""
        kind_BNX = self.kinds(actions_BN, padding_BN).to(candidate_BKE.dtype)
        weight_BND = self._weights(time_B.unsqueeze(1) - timestamp_BN)
        counted_BNDX = weight_BND.unsqueeze(3) * kind_BNX.unsqueeze(2)
        total_BDXE = torch.matmul(counted_BNDX.flatten(2).transpose(1, 2), event_BNE)
        near_BKDX = torch.matmul(candidate_BKE, total_BDXE.transpose(1, 2)).unflatten(
            2, [self.half_life_D.size(0), -1]
        )
        return self._features(near_BKDX, counted_BNDX.sum(1).unsqueeze(1))

    def forward(
        self,
        candidate_BKE: Tensor,
        time_BK: Tensor,
        event_BNE: Tensor,
        kind_BNX: Tensor,
        timestamp_BN: Tensor,
        seen_BKN: Tensor,
    ) -> Tensor:
        """Return features [B, K, F] of candidates at the unix seconds `time_BK`, each over the events that
        the booleans `seen_BKN` let it see; events are of the `kinds` that `kind_BNX` says."""
        kind_BNX = kind_BNX.to(candidate_BKE.dtype)
        like_BKN = torch.matmul(candidate_BKE, event_BNE.transpose(1, 2))
        weight_BKND = self._weights(time_BK.unsqueeze(2) - timestamp_BN.unsqueeze(1))
        near: list[Tensor] = []
        count: list[Tensor] = []
        for weight_BKN in weight_BKND.unbind(-1):
            counted_BKN = weight_BKN * seen_BKN
            count.append(torch.matmul(counted_BKN, kind_BNX))
            near.append(torch.matmul(counted_BKN * like_BKN, kind_BNX))
        return self._features(torch.stack(near, dim=2), torch.stack(count, dim=2))

    def _weights(self, age: Tensor) -> Tensor:
        """What events of these ages in seconds [...] count for each half-life, [..., D]."""
        return torch.exp2(age.clamp(min=0).unsqueeze(-1) / -self.half_life_D)

    def _features(self, near_BKDX: Tensor, count_BKDX: Tensor) -> Tensor:
        """Means and counts of all kinds but the last, and rates; counts may be [B, 1, D, X]."""
        kinds = self.num_actions + 1
        means_BKDX = self.near_scale * near_BKDX[..., :kinds] / (count_BKDX[..., :kinds] + 1)
        logs_BKDX = count_BKDX[..., :kinds].log1p().expand_as(means_BKDX)
        rate_BKA = self._user_rates(count_BKDX[:, :, -1])
        rate_BKA = rate_BKA.expand(near_BKDX.size(0), near_BKDX.size(1), self.num_actions)
        return torch.cat([means_BKDX.flatten(2), logs_BKDX.flatten(2), rate_BKA], dim=-1)

    def _user_rates(self, count_BKX: Tensor) -> Tensor:
        """Log-odds of each action less the global ones, as `unipinrec.models.common.rates` smooths them."""
        acted, rows = count_BKX[..., : self.num_actions], count_BKX[..., -1:]
        prior, strength = torch.sigmoid(self.prior_A), self.user_strength_A
        passed = (rows - acted).clamp(min=0)
        odds = (acted + strength * prior) / (passed + strength * (1 - prior))
        return odds.log() - self.prior_A
