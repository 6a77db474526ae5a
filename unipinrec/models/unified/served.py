"""What serving runs of a trained model."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from unipinrec.config import ModelConfig
from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.common.tokens import Tokenizer
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.unified.module import UnifiedRecommender


class ServedModel(nn.Module):
    """A `UnifiedRecommender` without its embedder, whose output a bundle holds for every item."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.trunk = Trunk(config)
        self.retrieval_head = RetrievalHead(config)
        self.ranking_head = RankingHead(config)

    @classmethod
    def load(cls, path: Path, config: ModelConfig) -> "ServedModel":
        """The model of a file that `save` wrote, in evaluation mode and float32."""
        model = cls(config)
        model.load_state_dict(load_file(path))
        return model.eval()

    @staticmethod
    def save(model: UnifiedRecommender, path: Path) -> None:
        """Write a trained model's weights."""
        kept = {name: weight for name, weight in model.state_dict().items() if "embedder" not in name}
        save_file({name: weight.contiguous() for name, weight in kept.items()}, path)
