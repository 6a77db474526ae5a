"""What serving runs of a trained model."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.common.tokens import Tokenizer
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.unified.config import UnifiedConfig


class ServedModel(nn.Module):
    """A `UnifiedRecommender` without its embedder, whose output a bundle holds for every item."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.trunk = Trunk(config)
        self.retrieval_head = RetrievalHead(config, len(config.time_offsets_s))
        self.ranking_head = RankingHead(config)

    @classmethod
    def load(cls, path: Path, config: UnifiedConfig) -> "ServedModel":
        """Return the model of a bundle's file of weights, in evaluation mode and float32."""
        model = cls(config)
        model.load_state_dict(load_file(path))
        return model.eval()
