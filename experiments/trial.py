"""One trained model of a comparison: a variant with a seed."""

import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from experiments.recipes import Recipe
from experiments.variants import Variant
from unipinrec.data.blended import BlendedDataset
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.models.registry import find_model
from unipinrec.training.checkpoint import latest_checkpoint
from unipinrec.training.trainer import train

SECONDS = "seconds.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Its checkpoints are kept in `folder`; what is finished is not trained again."""

    recipe: Recipe
    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Return a name for lines of progress."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """Return what training took."""
        return float((self.folder / SECONDS).read_text())

    def train(self, dataset: InteractionDataset, split: Split) -> None:
        """Train in this process; what training prints goes to a log."""
        config = self.recipe.model_config(dataset, self.variant)
        examples = BlendedDataset(dataset, self.recipe.blended_config(config, self.seed), split)
        training = self.recipe.training_config(dataset, self.variant, self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with (self.folder / "training.log").open("a") as log, redirect_stdout(log):
            train(find_model(self.variant.spec), examples, config, training, self.folder)
        # A run that only found its finished checkpoint keeps the time that training once took.
        if not (self.folder / SECONDS).exists():
            (self.folder / SECONDS).write_text(f"{time.perf_counter() - began:.1f}\n")

    @property
    def checkpoint(self) -> Path:
        """Return what training left. Raises `FileNotFoundError` if it was not trained yet."""
        found = latest_checkpoint(self.folder)
        if found is None:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint")
        return found
