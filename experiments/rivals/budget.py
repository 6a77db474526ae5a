"""How much each rival is tuned: the same for all."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated

from pydantic import Field

from unipinrec.config import Config, Count, Probability

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]


class Regularisation(Config):
    """What keeps a rival from learning its examples by heart."""

    embedding_l2: Share = 0.0
    """Of every table's squared norm in the loss, halved."""
    net_l2: Share = 0.0
    """The same of all other weights."""
    dropout: Probability = 0.0
    """In the hidden layers above the sequence."""


class Setting(Config):
    """One configuration of a rival."""

    learning_rate: Rate
    """Adam's."""
    embedding_dim: Count
    regularisation: Regularisation


class Budget(Config):
    """Every setting is tried once for each rival and action; the best one is trained with every seed."""

    rivals: tuple[str, ...] = ("TransAct", "DIN", "SIM")
    actions: tuple[str, ...]
    learning_rates: tuple[Rate, ...] = (1e-3, 4e-3)
    embedding_dims: tuple[Count, ...] = (8,)
    regularisations: tuple[Regularisation, ...] = (
        Regularisation(embedding_l2=1e-5),
        Regularisation(embedding_l2=1e-3, net_l2=1e-3, dropout=0.3),
    )
    epochs: Count = 8
    """At most; a trial ends after more than `patience` epochs that were not the best in validation."""
    patience: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 2_048
    """Candidates in a step."""
    seeds: tuple[int, ...] = (0, 1, 2)

    def settings(self) -> Iterator[Setting]:
        """Yield all settings."""
        for rate, dim, regularisation in product(
            self.learning_rates, self.embedding_dims, self.regularisations
        ):
            yield Setting(learning_rate=rate, embedding_dim=dim, regularisation=regularisation)
