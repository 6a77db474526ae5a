"""The models that are compared: same data, same budget, same trunk where they can."""

from dataclasses import dataclass, field, replace
from typing import Any

DAY_S = 86_400


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
    vectors: "Variant | None" = None
    """Whose trained item vectors, of the same seed, it reads and searches by."""
    ablates: "Variant | None" = None
    """What it differs from in one thing, and is compared with."""


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
TWO_STEPS = Variant(
    name="two_steps",
    what="unified, trained for a second query embedding after the first was fed back",
    training={"second_step_weight": 0.5},
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


TRANSACT = Variant(
    name="transact",
    what="second ranker: TransAct, latest 100 events",
    spec="transact",
    retrieves=False,
    vectors=UNIFIED,
)
TRANSACT_ALONE = replace(TRANSACT, what="second ranker: TransAct, by item vectors of its own", vectors=None)
TRANSACT_V2 = Variant(
    name="transact-v2",
    what="second ranker: TransAct V2, up to 16,000 events",
    spec="transact-v2",
    retrieves=False,
    vectors=UNIFIED,
)


def without(
    base: Variant,
    name: str,
    what: str,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Variant:
    """Return a second ranker with another `model` or `training`, to be compared with `base`."""
    return replace(
        base,
        name=f"{base.name}-{name}",
        what=what,
        model=model or {},
        training=training or {},
        ablates=base,
    )


TRANSACT_ABLATIONS = (
    replace(
        TRANSACT,
        name="transact-own-vectors",
        what="without the first ranker's item vectors",
        vectors=None,
        ablates=TRANSACT,
    ),
    without(TRANSACT, "no-means", "without means of item vectors", model={"half_lives_s": ()}),
    without(TRANSACT, "no-rates", "without base rates", model={"base_rates": False}),
    without(TRANSACT, "append", "the candidate as one more row", model={"fusion": "append"}),
    without(TRANSACT, "first", "first rows alone, no maximum", model={"outputs": "first"}),
    without(TRANSACT, "max", "maximum alone, no first rows", model={"outputs": "max"}),
    without(TRANSACT, "window", "up to a day masked in training", training={"time_window_s": DAY_S}),
)
TRANSACT_V2_ABLATIONS = (
    without(
        TRANSACT_V2,
        "realtime",
        "latest 100 events alone",
        model={"max_events": 100, "lifelong_nearest": 0},
    ),
    without(
        TRANSACT_V2, "no-next", "without the Next Action Loss", training={"next_action_negatives": "none"}
    ),
    without(
        TRANSACT_V2,
        "in-batch",
        "next actions against others' events",
        training={"next_action_negatives": "in_batch"},
    ),
    without(
        TRANSACT_V2,
        "no-counts",
        "without counts of actions among the nearest rows",
        model={"nearest_counts": False},
    ),
)
