"""What can be configured about the model and its training, and the named presets."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Config(BaseModel):
    """Base of every configuration: immutable, unknown fields refused, ranges checked by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Config):
    """Sizes of one unified model (UniPinRec §1; values the paper leaves open are marked so)."""

    num_items: Count
    """Items in the catalogue. The id table costs `num_items x id_dim` floats."""
    num_actions: Annotated[int, Field(ge=1, le=32)]
    """Action types that a position carries and that ranking predicts, one logit each."""
    num_surfaces: Count = 1
    """Places in the product where an action can happen."""
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
    max_candidates: Count
    """Candidates that one request may rank."""
    item_dim: Annotated[int, Field(ge=4)] = 64
    """Width of the L2-normalised item vectors and query embeddings (not stated in the paper)."""
    id_dim: Annotated[int, Field(ge=4)] = 64
    """Width of the item id table that feeds the embedder (not stated in the paper)."""
    action_dim: Annotated[int, Field(ge=1)] = 16
    """Width of the dense action embedding that is joined to the item vector (not stated in the paper)."""
    feedforward_ratio: Annotated[int, Field(ge=1)] = 4
    """Feed-forward width over hidden size."""
    head_hidden: Annotated[int, Field(ge=1)] = 32
    """Hidden width of each action's ranking MLP (not stated in the paper)."""
    dropout: Probability = 0.0
    """Dropout on attention outputs and feed-forward outputs, in training only."""

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it must divide width {self.width}")
        if self.window_block > self.max_history:
            raise ValueError(
                f"window_block is {self.window_block}; allowed: 1 to max_history {self.max_history}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def max_positions(self) -> int:
        """Keys and values that one history can fill: BOS and `max_history` events."""
        return self.max_history + 1


class TrainingConfig(Config):
    """One training stage with both losses (UniPinRec §1.5). The paper gives p_mask; the rest is ours."""

    epochs: Count
    """Passes over the users; each pass draws one blended example per user."""
    batch_size: Count = 64
    """Users in one step; also the number of examples whose items serve as in-batch negatives."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the schedule: linear warm-up, then cosine decay to zero."""
    warmup_fraction: Probability = 0.1
    """Share of all steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    action_mask_probability: Probability = 0.2
    """p_mask: chance that a history position's action is replaced by MASK (UniPinRec Table 4)."""
    in_batch_negatives: Count = 512
    """Most targets of the batch that every position is contrasted with; drawn anew each step."""
    random_negatives: Count = 512
    """Uniformly drawn items that join the in-batch negatives of every position."""
    ranking_loss_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the ranking loss beside the retrieval loss."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a step's gradient."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds initialisation, example order, masking and negatives."""
    checkpoint_every: Count = 5
    """Epochs between checkpoints; a run that stops is resumed from the last one."""


DEMO_TRAINING = TrainingConfig(epochs=18, batch_size=32, learning_rate=2e-3)
"""About three minutes on two cores for MovieLens 100K."""

_PRESETS: dict[str, dict[str, int | float]] = {
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

PRESETS = tuple(_PRESETS)


def preset(name: str, *, num_items: int, num_actions: int, num_surfaces: int = 1) -> ModelConfig:
    """The named sizes (`tiny`, `demo`, `bench-cpu`, `paper`) for a catalogue.

    Raises:
        ValueError: `name` is not one of `PRESETS`.
    """
    if name not in _PRESETS:
        raise ValueError(f"preset is {name!r}; allowed: {', '.join(PRESETS)}")
    catalogue = {"num_items": num_items, "num_actions": num_actions, "num_surfaces": num_surfaces}
    return ModelConfig.model_validate({**_PRESETS[name], **catalogue})
