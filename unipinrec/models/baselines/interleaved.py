"""The same trunk over item and action tokens in turn, as HSTU reads a history.

Shapes: B requests, N events, J = 2 N + 1 tokens (BOS, then item and action of each event), T = N + 1,
K candidates, A actions, L layers, H heads, D head width, E item width, C hidden width.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from unipinrec.models.common.features import multi_hot_actions
from unipinrec.models.common.history_model import Reading
from unipinrec.models.common.joint_model import JointModel
from unipinrec.models.common.joint_objective import JointObjective
from unipinrec.models.common.offline import OfflineRanker
from unipinrec.models.config import JointConfig, JointTraining
from unipinrec.models.spec import ModelSpec, blended_examples


class InterleavedRecommender(JointModel):
    """UniPinRec's comparison (§1.9, Table 1): an event takes two tokens, so n events cost 2 n.

    An item token predicts its actions, which come after it, so nothing needs masking; an action token
    predicts the next item. Candidates are item tokens behind the whole history. Embedder, features, trunk and
    heads are the unified model's own.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config)
        self.action_token = nn.Linear(config.num_actions + 1, config.width)
        # As long as an item is in its token: it stands alone here.
        nn.init.normal_(self.action_token.weight)

    @override
    def encode(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, T, C] after BOS and each action, keys and values [L, 2, B, H, J, D]."""
        hidden_BJC, past_L2BHJD = self._tokens(vector_BNE, actions_BN, timestamp_BN, surface_BN)
        return hidden_BJC[:, ::2], past_L2BHJD

    @override
    def read(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor,
    ) -> Reading:
        """Encode as training does; every position's actions are hidden from its own item token."""
        hidden_BJC, past_L2BHJD = self._tokens(vector_BNE, actions_BN, timestamp_BN, surface_BN)
        return Reading(hidden_BJC[:, ::2], hidden_BJC[:, 1::2], past_L2BHJD, False)

    @override
    def score_padded(
        self,
        candidate_BKE: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        past_L2BHTD: Tensor,
        length_B: Tensor,
    ) -> Tensor:
        """Return action logits [B, K, A] of candidates behind histories of `length_B` events."""
        return super().score_padded(candidate_BKE, timestamp_B, surface_B, past_L2BHTD, 2 * length_B)

    def _tokens(
        self, vector_BNE: Tensor, actions_BN: Tensor, timestamp_BN: Tensor, surface_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        known_BN = torch.zeros_like(actions_BN, dtype=torch.bool)
        item_BNC = self.tokenizer.events(vector_BNE, actions_BN, ~known_BN, timestamp_BN, surface_BN)
        hot = multi_hot_actions(actions_BN, known_BN, self.config.num_actions).to(item_BNC.dtype)
        place_N = torch.arange(1, actions_BN.size(1) + 1, device=actions_BN.device)
        action_BNC = self.action_token(hot) + self.tokenizer.position(place_N)
        pair_BJC = torch.stack([item_BNC, action_BNC], dim=2).flatten(1, 2)
        return self.trunk.history(torch.cat([self.tokenizer.begin(len(vector_BNE)), pair_BJC], dim=1))


SPEC = ModelSpec(
    name="interleaved",
    config=JointConfig,
    training=JointTraining,
    make=InterleavedRecommender,
    examples=blended_examples,
    objective=JointObjective.of,
    offline=OfflineRanker,
)
