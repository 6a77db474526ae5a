"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422).

Shapes: B requests, T cached positions, K candidates, A actions, L layers, H heads, D head width,
E item width.
"""

from torch import Tensor

from unipinrec.models.common.history_model import JointModel
from unipinrec.models.unified.config import UnifiedConfig


class UnifiedRecommender(JointModel):
    """Embedder, tokens, trunk and both heads.

    `encode` runs over padded batches of whole histories. `EncoderGraph` serves: it fills slots once per
    history and continues them. `retrieval_head` and `score` reuse what either leaves.
    """

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config, config.time_offsets_s)
        self.config: UnifiedConfig = config

    def score(
        self, candidate_BKE: Tensor, timestamp_B: Tensor, surface_B: Tensor, past_L2HTD: list[Tensor]
    ) -> Tensor:
        """Return action logits [B, K, A] of candidates over each request's cached history of exact length."""
        token_BKC = self.tokenizer.candidates(candidate_BKE, timestamp_B, surface_B)
        return self.ranking_head(self.trunk.candidates_over_slots(token_BKC, past_L2HTD))
