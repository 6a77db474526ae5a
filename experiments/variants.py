"""The models that are compared: same data, same budget, same trunk where they can."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of a comparison, as changes to a recipe."""

    name: str
    what: str
    """One line for the table."""
    spec: str = "unified"
    """Name of the model in the registry."""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    retrieves: bool = True
    ranks: bool = True
    most_seeds: int | None = None
    """Seeds of the recipe that it is trained with; sweeps, which only describe, need fewer."""


UNIFIED = Variant(name="unipinrec", what="one trunk, both losses, masked actions")
RANKING_ONLY = Variant(
    name="ranking_only",
    what="the same without the retrieval loss",
    training={"retrieval_loss_weight": 0.0},
    retrieves=False,
)
RETRIEVAL_ONLY = Variant(
    name="retrieval_only",
    what="PinRec: the same without the ranking loss and without masking",
    training={"ranking_loss_weight": 0.0, "action_mask_probability": 0.0},
    ranks=False,
)
INTERLEAVED = Variant(
    name="interleaved",
    what="HSTU-style: item and action tokens in turn, both losses",
    spec="interleaved",
    training={"action_mask_probability": 0.0},
)
SASREC = Variant(
    name="sasrec",
    what="SASRec: item ids alone, full softmax",
    spec="sasrec",
    # Ids are all it has, so none is hidden from it.
    training={"full_softmax": True, "outcome_probability": 0.0, "id_dropout": 0.0},
    ranks=False,
)
MULTI_TOKEN = Variant(
    name="multi_token",
    what="unified, with query embeddings for now, an hour and a day later",
    model={"time_offsets_s": (0, 3_600, 86_400)},
)


def masking(probability: float) -> Variant:
    """Return the unified model with another p_mask (UniPinRec, Table 4)."""
    return Variant(
        name=f"p_mask={probability}",
        what="unified, another chance of masking",
        training={"action_mask_probability": probability},
        most_seeds=1,
    )


def depth(layers: int) -> Variant:
    """Return the unified model with another number of layers (UniPinRec, Fig 4)."""
    return Variant(
        name=f"layers={layers}", what="unified, another depth", model={"layers": layers}, most_seeds=1
    )


def length(events: int) -> Variant:
    """Return the unified model that reads another number of events (UniPinRec, Fig 4)."""
    return Variant(
        name=f"events={events}",
        what="unified, another history length",
        model={"max_history": events, "window_block": max(1, events // 4)},
        most_seeds=1,
    )
