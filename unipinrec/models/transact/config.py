"""Sizes of both second rankers and their training, readable without PyTorch."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from unipinrec.config import Count, Probability, TrainingConfig
from unipinrec.models.config import ItemConfig

DAY_S = 86_400


class SecondRankerConfig(ItemConfig):
    """What TransAct and TransAct V2 have in common: item vectors, an encoder, crossing and heads."""

    own_presets: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {
            "max_candidates": 16, "item_dim": 8, "id_dim": 8, "attribute_dim": 8, "action_dim": 8,
            "max_events": 16, "max_impressions": 16, "feedforward": 8, "cross_dim": 16, "head_hidden": 16,
        },
        "demo": {"max_candidates": 128},
        "bench-cpu": {"max_candidates": 128},
        "paper": {"max_candidates": 656, "cross_dim": 0},
    }  # fmt: skip
    """The names are those of all models' presets; the papers' encoders are small, so sizes differ little."""

    item_dim: Annotated[int, Field(ge=4)] = 32
    """Width of the item vectors (TransAct §3.2, PinSage)."""
    id_dim: Annotated[int, Field(ge=4)] = 32
    max_events: Count
    """Latest events of a user that are read."""
    max_impressions: Annotated[int, Field(ge=0)] = 1_000
    """Latest impressions without an action that are read."""
    action_dim: Count = 32
    """Width of an action's embedding; an event has the mean of its own."""
    encoder_layers: Count = 2
    """Transformer layers, of one head each."""
    feedforward: Count = 32
    """Feed-forward width of the transformer."""
    dropout: Probability = 0.1
    """Dropout in the transformer and the heads' hidden layer, in training only."""
    time_periods_s: Annotated[tuple[Count, ...], Field(max_length=16)] = (DAY_S, 7 * DAY_S)
    """Periods in seconds of the sinusoids of the request's time."""
    surface_dim: Count = 8
    """Width of the embedding of the request's surface in the crossing."""
    half_lives_s: Annotated[tuple[Count, ...], Field(max_length=8)] = (900, 3 * DAY_S, 90 * DAY_S)
    """Seconds after which an event counts half in the means of item vectors that stand for a user, by action:
    the session, these days, and always. Empty: there are no such means."""
    cross_dim: Annotated[int, Field(ge=0)] = 128
    """Width of the features that are crossed, each layer costing its square; 0: all of them as they are. The
    papers tell no width."""
    cross_layers: Annotated[int, Field(ge=0, le=8)] = 2
    """Cross layers, each of which multiplies features once more."""
    head_hidden: Count = 64
    """Width of the hidden layer between crossing and logits."""
    base_rates: bool = True
    """Whether smoothed rates of user, item and attribute are features, and where each logit starts."""

    @classmethod
    @override
    def preset(cls, name: str) -> Mapping[str, int]:
        return cls.own_presets[name]


class TransactConfig(SecondRankerConfig):
    """TransAct (arXiv 2306.00248 §3.3): the latest events, fused with the candidate."""

    max_events: Count = 100
    first_rows: Count = 10
    """Rows of the encoder's output, newest first, that enter the crossing one by one."""
    outputs: Literal["first", "max", "both"] = "both"
    """Whether the first rows, the maximum over all rows, or both enter the crossing (TransAct Table 5)."""
    fusion: Literal["concat", "append"] = "concat"
    """Whether the candidate is part of every row or one more row (TransAct Table 6)."""

    @property
    def row_dim(self) -> int:
        """Return the width of a row."""
        return self.action_dim + self.item_dim * (2 if self.fusion == "concat" else 1)


class TransactV2Config(SecondRankerConfig):
    """TransAct V2 (arXiv 2506.02267 §3): events nearest to the candidate out of a lifelong sequence.

    Its tokens, in this order: of the lifelong events, of those before the latest, and of the impressions the
    nearest ones, with the latest events in the second place. The paper gives their sum, 192, alone.
    """

    own_presets: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {
            **SecondRankerConfig.own_presets["tiny"], "max_events": 64, "realtime_events": 12,
            "lifelong_nearest": 4, "latest_events": 4, "realtime_nearest": 2, "impressions_nearest": 2,
        },
        **{name: SecondRankerConfig.own_presets[name] for name in ("demo", "bench-cpu", "paper")},
    }  # fmt: skip

    max_events: Count = 16_000
    realtime_events: Count = 100
    """Latest events that are the realtime sequence; older ones are the lifelong sequence."""
    lifelong_nearest: Annotated[int, Field(ge=0)] = 64
    latest_events: Count = 48
    """Latest events, which every candidate gets."""
    realtime_nearest: Annotated[int, Field(ge=0)] = 32
    impressions_nearest: Annotated[int, Field(ge=0)] = 48
    search_dim: Annotated[int, Field(ge=1, le=1_024)] = 32
    """Width of the fixed int8 vectors by which events are near."""

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.latest_events > self.realtime_events:
            raise ValueError(
                f"latest_events is {self.latest_events}; allowed: 1 to realtime_events {self.realtime_events}"
            )
        return self

    @property
    def tokens(self) -> int:
        """Return the most tokens of a candidate."""
        nearest = self.lifelong_nearest + self.realtime_nearest + self.impressions_nearest
        return nearest + self.latest_events

    @property
    def row_dim(self) -> int:
        """Return the width of a token: an item's vector and the candidate's."""
        return 2 * self.item_dim


class TransactTraining(TrainingConfig):
    """The loss of the second ranker: cross-entropy of every action (TransAct §3.1)."""

    epochs: Count = 3
    """Passes over the users; each draws some of a user's feedviews."""
    batch_size: Count = 32
    """Requests in one step, those of all processes together."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    checkpoint_every: Count = 1
    time_window_s: Annotated[int, Field(ge=0)] = DAY_S
    """Longest time before a request whose events a step hides: a random part of it for each request (TransAct
    §3.3). 0: none. TransAct V2 has no such window."""
    label_weights: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = ()
    """M: row h has what each action of a candidate adds to its weight in the loss of action h (TransAct
    §3.1). Where the sum is below 1, as for a candidate without actions, the weight is 1. Empty: all weights
    are 1."""
    id_dropout: Probability = 0.0
    """Chance that an item's id is hidden in a step, so that attributes and content give usable vectors."""


class TransactV2Training(TransactTraining):
    """The same with the Next Action Loss (TransAct V2 §3.4)."""

    time_window_s: Annotated[int, Field(ge=0)] = 0
    next_action_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the Next Action Loss."""
    next_action_negatives: Literal["impression", "in_batch", "none"] = "impression"
    """What the next item is contrasted with: the user's impressions, others' events, or nothing, which turns
    the loss off."""
    negatives: Count = 32
    """Most negatives of a request."""
