"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422).

Shapes: B requests, X positions of several requests one after another, T cached positions, K candidates,
A actions, L layers, H heads, S positions of a slot, D head width, E item width, C hidden width.
"""

from torch import Tensor

from unipinrec.models.common.joint_model import JointModel
from unipinrec.models.unified.config import UnifiedConfig


class UnifiedRecommender(JointModel):
    """Embedder, tokens, trunk and both heads.

    `encode` runs over padded batches of whole histories, `extend` serves: it fills slots once per history and
    continues them. `retrieval_head` and `score` reuse what either leaves.
    """

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config, config.time_offsets_s)
        self.config: UnifiedConfig = config

    def extend(
        self,
        vector_XE: Tensor,
        actions_X: Tensor,
        masked_X: Tensor,
        timestamp_X: Tensor,
        previous_timestamp_X: Tensor,
        surface_X: Tensor,
        position_X: Tensor,
        first: list[int],
        cached: list[int],
        count: list[int],
        slots: list[Tensor],
    ) -> Tensor:
        """Continue the history in each slot [L, 2, H, S, D] by the request's events, in place.

        The tokens of all requests stand one after another: request b has `count[b]` from row `first[b]` on,
        behind the `cached[b]` positions that its slot holds. A whole history starts with position 0, BOS.
        A query embedding that is fed back is an event whose action is masked (PinRec §2.5).

        Returns hidden states [B', C] after each request's last position, B' being B rounded up to `ROW_STEP`;
        the same as encoding each whole history.
        """
        token_XC = self.tokenizer.packed(
            vector_XE, actions_X, masked_X, timestamp_X, previous_timestamp_X, surface_X, position_X
        )
        return self.trunk.extended(token_XC, first, cached, count, slots)

    def score(
        self, candidate_BKE: Tensor, timestamp_B: Tensor, surface_B: Tensor, past_L2HTD: list[Tensor]
    ) -> Tensor:
        """Return action logits [B, K, A] of candidates over each request's cached history of exact length."""
        token_BKC = self.tokenizer.candidates(candidate_BKE, timestamp_B, surface_B)
        return self.ranking_head(self.trunk.candidates_over_slots(token_BKC, past_L2HTD))
