"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422)."""

from unipinrec.models.common.history_model import JointModel
from unipinrec.models.unified.config import UnifiedConfig


class UnifiedRecommender(JointModel):
    """Embedder, tokens, trunk and both heads.

    `encode` runs over padded batches of whole histories. `EncoderGraph` serves: it fills slots once per
    history and continues them, and `RankingHeadGraph` ranks over them.
    """

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config, config.time_offsets_s)
        self.config: UnifiedConfig = config
