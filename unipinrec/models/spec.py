"""What training, checkpoints, evaluation, export and bundles need to know of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unipinrec.config import TrainingConfig
from unipinrec.data.blended import BlendedConfig, BlendedDataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.exports import Exports
from unipinrec.models.common.objective import Objective
from unipinrec.models.config import CatalogueConfig, ModelConfig

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=CatalogueConfig)
T = TypeVar("T", bound=TrainingConfig)


class Examples(Protocol):
    """What a model is trained on: the same examples for the same epoch, every time."""

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""

    @property
    def interactions(self) -> InteractionDataset:
        """Return the dataset that the examples are drawn from."""

    @property
    def sha256(self) -> dict[str, str]:
        """Return the hashes of all tables that the examples are drawn from: the dataset's, and others'."""

    def set_epoch(self, epoch: int) -> None:
        """Draw the examples of an epoch from here on."""

    def batches(self, *, batch_size: int, seed: int, workers: int, draw: torch.Generator) -> DataLoader[Any]:
        """Return batches of all examples, in an order given by `seed`; the last made may be smaller.

        A batch has a method `to` that moves it to a device. The loader draws from `draw`.
        """


def blended_examples(interactions: InteractionDataset, config: ModelConfig, seed: int) -> BlendedDataset:
    """Return examples of histories as long as a model reads, with the last two events of a user held out."""
    return BlendedDataset(interactions, BlendedConfig(max_history=config.max_history, seed=seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Generic[M, C, T]):
    """One model; `unipinrec.models.registry` finds it by its name."""

    name: str
    config: type[C]
    training: type[T]
    make: Callable[[C], M]
    """Draws a new model of these sizes."""
    objective: Callable[[M, T, Any], Objective]
    """Adds the losses to a model, for a training on these examples."""
    offline: Callable[[M], Any]
    """What evaluation asks; of a recommender, as `unipinrec.evaluation.recommender` describes it."""
    examples: Callable[[InteractionDataset, C, int], Examples] | None = None
    """Examples of a dataset, from a seed. None: it needs vectors."""
    examples_by_vectors: Callable[[InteractionDataset, C, int, Tensor], Examples] | None = None
    """The same with item vectors [V, E] of another model, of which `models.config.with_vectors` tells a
    configuration. None: it takes none."""
    exports: Callable[[M], Exports] | None = None
    """What is served. None: the model is there to compare with."""
