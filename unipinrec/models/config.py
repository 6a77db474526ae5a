"""What can be configured about models and their losses: the parts that several of them share.

Apart from `common`, whose import loads PyTorch: server nodes that compute nothing read configurations too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from unipinrec.config import Config, Count, Probability, TrainingConfig


class CatalogueConfig(Config):
    """What every model is told of a catalogue and of requests."""

    num_items: Count
    """Items in the catalogue."""
    num_actions: Annotated[int, Field(ge=1, le=32)]
    """Action types that a position carries and that ranking predicts, one logit each."""
    num_surfaces: Count = 1
    """Places in the product where an action can happen."""
    num_attributes: Annotated[int, Field(ge=0)] = 0
    """Distinct categories, brands or tags of items. 0: items have none."""
    max_attributes: Annotated[int, Field(ge=0)] = 0
    """Attributes of one item, at most."""
    content_dim: Annotated[int, Field(ge=0)] = 0
    """Width of the dense content vectors that come with the items. 0: items have none."""
    max_candidates: Count
    """Candidates that one request may rank."""

    @classmethod
    def preset(cls, name: str) -> Mapping[str, int | float]:
        """Return the fields that one of `PRESETS` sets."""
        return {field: size for field, size in _SIZES[name].items() if field in cls.model_fields}


class ItemConfig(CatalogueConfig):
    """How a model's own item vectors are made (PinRec §2.3)."""

    item_dim: Annotated[int, Field(ge=4)] = 64
    """Width of the L2-normalised item vectors and query embeddings (not stated in the paper)."""
    id_dim: Annotated[int, Field(ge=4)] = 64
    """Width of the id embedding that feeds the embedder: all hash functions joined (our choice)."""
    id_hashes: Annotated[int, Field(ge=1, le=8)] = 1
    """Hash functions of the item id, each into its own table of width `id_dim / id_hashes` (PinRec §2.3).
    More make it rarer that two items share everything."""
    id_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of each table, which costs `id_rows x id_dim / id_hashes` floats. 0: a row for every item, and
    then with one hash function no two items share one."""
    attribute_dim: Annotated[int, Field(ge=1)] = 32
    """Width of an attribute's embedding; an item has the sum of its own, divided by the root of
    their number."""

    @model_validator(mode="after")
    def _check_hashes(self) -> Self:
        if self.id_dim % self.id_hashes:
            raise ValueError(f"id_hashes is {self.id_hashes}; it must divide id_dim {self.id_dim}")
        return self


class ModelConfig(ItemConfig):
    """Sizes of a transformer over histories: trunk, tokens and item vectors (UniPinRec §1)."""

    layers: Count
    """Transformer layers. Compute and KV bytes grow linearly."""
    width: Annotated[int, Field(ge=8)]
    """Hidden size. Compute grows quadratically, KV bytes linearly."""
    heads: Count
    """Attention heads; must divide `width`."""
    max_history: Count
    """Events of a history that the trunk reads; older ones fall out of the window."""
    window_block: Count
    """Events by which the window start moves when a history outgrows `max_history`. Larger blocks keep
    a cached prefix valid for longer, and drop up to `window_block - 1` more old events."""
    action_dim: Annotated[int, Field(ge=1)] = 16
    """Width of the dense action embedding that is joined to the item vector (not stated in the paper)."""
    feedforward_ratio: Annotated[int, Field(ge=1)] = 4
    """Feed-forward width over hidden size."""
    dropout: Probability = 0.0
    """Dropout on tokens, attention outputs and feed-forward outputs, in training only."""
    time_periods_s: Annotated[tuple[Count, ...], Field(max_length=16)] = (
        86_400,
        7 * 86_400,
        91 * 86_400,
        365 * 86_400,
    )
    """Periods in seconds of the absolute-time sinusoids: day, week, season, year (PinRec §2.3). Leave out
    what is longer than half the log: its test times would lie where training had none."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it must divide width {self.width}")
        if self.window_block > self.max_history:
            raise ValueError(
                f"window_block is {self.window_block}; allowed: 1 to max_history {self.max_history}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Return the width of an attention head."""
        return self.width // self.heads

    @property
    def max_positions(self) -> int:
        """Return how many keys and values a history can fill: BOS and `max_history` events."""
        return self.max_history + 1


class JointConfig(ModelConfig):
    """A transformer that also ranks."""

    head_hidden: Annotated[int, Field(ge=1)] = 32
    """Hidden width of each action's ranking MLP (not stated in the paper)."""
    half_lives_s: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (
        900,
        7_200,
        86_400,
        30 * 86_400,
    )
    """Seconds after which an event counts half in how near candidates are to what a user did: the session,
    hours, days, months. The last one is that of users' rates."""
    similarity_weight: Annotated[float, Field(ge=0)] = 0.0
    """What a candidate's inner product with the immediate query embedding counts in every logit at first;
    training learns it for each action. The larger, the closer ranking starts to retrieval's order, and stays:
    a few thousand steps change a large weight little."""


class RetrievalTraining(TrainingConfig):
    """The retrieval loss over histories (UniPinRec §1.5). The paper gives p_mask; the rest is ours."""

    action_mask_probability: Probability = 0.2
    """p_mask: chance that a history position's action is replaced by MASK (UniPinRec Table 4). A model that
    reads no actions is not concerned."""
    in_batch_negatives: Count = 512
    """Most targets of the batch that every position is contrasted with; drawn anew each step."""
    random_negatives: Count = 512
    """Uniformly drawn items that join the in-batch negatives of every position."""
    full_softmax: bool = False
    """Contrast every position with the whole catalogue instead of with drawn negatives. Exact, without
    log-frequency correction; its cost grows with the catalogue."""
    sketch_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Hash functions of the count-min sketch that estimates item frequencies."""
    sketch_width: Annotated[int, Field(ge=16)] = 65_536
    """Counters for each of them. An estimate exceeds the truth by more than 2.7 / width of all events with
    a chance of at most exp(-depth)."""
    outcome_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Chance that a position's query embedding is told an action of its target (PinRec §2.4); otherwise it
    learns to serve any outcome."""
    id_dropout: Probability = 0.0
    """Chance that an item's id is hidden, so that content alone gives a usable vector to items that training
    never saw."""
    relaxation_targets: Annotated[int, Field(ge=1, le=32)] = 1
    """Engaged items of the same session, from the next one on, of which a position may hit any: the least
    loss counts (intra-feed relaxation, PinRec §2.6). 1: the next one alone."""
    session_gap_s: Annotated[int, Field(ge=0)] = 1_800
    """A session ends where no event follows within this many seconds."""


class JointTraining(RetrievalTraining):
    """One training stage with both losses (UniPinRec §1.5)."""

    retrieval_loss_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the retrieval loss. 0 trains ranking alone."""
    ranking_loss_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the ranking loss beside the retrieval loss. 0 trains retrieval alone."""
    action_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight of each action in the ranking loss; empty: 1 each (UniPinRec Eq 4, tuned by hand)."""


_SIZES: dict[str, dict[str, int | float]] = {
    "tiny": {
        "layers": 2, "width": 32, "heads": 2, "max_history": 16, "window_block": 4, "max_candidates": 16,
        "item_dim": 16, "id_dim": 16, "action_dim": 8, "head_hidden": 8,
    },
    "demo": {
        "layers": 4, "width": 128, "heads": 4, "max_history": 128, "window_block": 32, "max_candidates": 128,
    },
    "bench-cpu": {
        "layers": 6, "width": 256, "heads": 4, "max_history": 512, "window_block": 64, "max_candidates": 128,
    },
    "paper": {
        "layers": 12, "width": 768, "heads": 12, "max_history": 992, "window_block": 64,
        "max_candidates": 656,
        "item_dim": 256, "id_dim": 256, "action_dim": 64, "head_hidden": 128, "dropout": 0.1,
    },
}  # fmt: skip

PRESETS = tuple(_SIZES)

C = TypeVar("C", bound=CatalogueConfig)


def with_vectors(kind: type[CatalogueConfig], fields: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return the fields of a catalogue whose items also have vectors of another model, `width` wide.

    They are content beside the dataset's own; a model with `search_dim` searches by them too.
    """
    given = {"content_dim": fields["content_dim"] + width, "search_dim": width}
    return {**fields, **{name: size for name, size in given.items() if name in kind.model_fields}}


def sized(kind: type[C], name: str, fields: Mapping[str, Any]) -> C:
    """Return a configuration of the named sizes (`tiny`, `demo`, `bench-cpu`, `paper`) with other fields set.

    Of the sizes, those count that `kind` has, unless it has presets of its own; `fields` are at least those
    of a catalogue: `num_items` and `num_actions`, or all that `InteractionDataset.catalogue_fields` tells.

    Raises `ValueError` if `name` is not one of `PRESETS`, or a field is unknown, missing or out of range.
    """
    if name not in _SIZES:
        raise ValueError(f"preset is {name!r}; allowed: {', '.join(PRESETS)}")
    return kind.model_validate({**kind.preset(name), **fields})
