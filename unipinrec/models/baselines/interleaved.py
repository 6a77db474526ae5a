"""The same trunk over item and action tokens in turn, as HSTU reads a history.

Shapes: B requests, N events, J = 2 N + 1 tokens (BOS, then item and action of each event), L layers, H heads,
D head width, C hidden width.
"""

import torch
from torch import nn
from typing_extensions import override

from unipinrec.models.common.features import multi_hot_actions
from unipinrec.models.common.history_model import JointModel, Reading
from unipinrec.models.common.history_objective import JointObjective
from unipinrec.models.common.offline import OfflineRanker
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import JointConfig, JointTraining
from unipinrec.models.spec import ModelSpec, blended_examples


class InterleavedRecommender(JointModel):
    """UniPinRec's comparison (§1.9, Table 1): an event takes two tokens, so n events cost 2 n.

    An item token predicts its actions, which come after it, so nothing needs masking; an action token
    predicts the next item. Candidates are item tokens behind the whole history. Embedder, features, trunk and
    heads are the unified model's own.
    """

    positions_per_event = 2

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config)
        self.action_token = nn.Linear(config.num_actions + 1, config.width)
        # As long as an item is in its token: it stands alone here.
        nn.init.normal_(self.action_token.weight)

    @override
    def read(self, events: Events) -> Reading:
        """Encode as training does; every position's actions are hidden from its own item token."""
        actions_BN = events.actions_BN
        known_BN = torch.zeros_like(actions_BN, dtype=torch.bool)
        item_BNC = self.tokenizer.events(events._replace(masked_BN=~known_BN))
        hot = multi_hot_actions(actions_BN, known_BN, self.config.num_actions).to(item_BNC.dtype)
        place_N = torch.arange(1, actions_BN.size(1) + 1, device=actions_BN.device)
        action_BNC = self.action_token(hot) + self.tokenizer.position(place_N)
        pair_BJC = torch.stack([item_BNC, action_BNC], dim=2).flatten(1, 2)
        begin_B1C = self.tokenizer.begin(len(item_BNC))
        hidden_BJC, past_L2BHJD = self.trunk.history(torch.cat([begin_B1C, pair_BJC], dim=1))
        return Reading(hidden_BJC[:, ::2], hidden_BJC[:, 1::2], past_L2BHJD, False)


SPEC = ModelSpec(
    name="interleaved",
    config=JointConfig,
    training=JointTraining,
    make=InterleavedRecommender,
    examples=blended_examples,
    objective=JointObjective.of,
    offline=OfflineRanker,
)
