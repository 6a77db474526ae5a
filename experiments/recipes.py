"""What is trained and compared on each dataset, within a stated budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from experiments.variants import (
    DAY_S,
    INTERLEAVED,
    MULTI_TOKEN,
    RANKING_ONLY,
    RETRIEVAL_ONLY,
    SASREC,
    TRANSACT,
    TRANSACT_ABLATIONS,
    TRANSACT_ALONE,
    TRANSACT_V2,
    TRANSACT_V2_ABLATIONS,
    TWO_STEPS,
    UNIFIED,
    Variant,
    depth,
    length,
    masking,
    without,
)
from unipinrec.config import Config, TrainingConfig
from unipinrec.data.blended import BlendedConfig
from unipinrec.data.interactions import FOREVER, InteractionDataset
from unipinrec.models.config import (
    CatalogueConfig,
    ItemConfig,
    JointTraining,
    ModelConfig,
    sized,
    with_vectors,
)
from unipinrec.models.registry import find_model
from unipinrec.models.transact.config import SecondRankerConfig
from unipinrec.models.transact.examples import SlateConfig
from unipinrec.models.unified.config import DEMO_SIZES


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRanker:
    """What second rankers have on one dataset, as changes to their defaults."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    slates: dict[str, Any] = field(default_factory=dict)
    """How examples are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Sizes, training and comparisons of one dataset."""

    dataset: str
    protocol: Literal["leave_one_out", "future_feedviews"]
    sizes: dict[str, Any]
    """Changes to the `demo` preset."""
    training: JointTraining
    action_weights: dict[str, float] = field(default_factory=dict)
    """Weights in the ranking loss by name of the action; 1 where it is left out."""
    blended: dict[str, Any] = field(default_factory=dict)
    second: SecondRanker = field(default_factory=SecondRanker)
    variants: tuple[Variant, ...] = (UNIFIED,)
    seeds: tuple[int, ...] = (0,)
    test_share: float = 0.2
    """Share of the feedviews, the latest ones, that are held out; `future_feedviews` alone."""
    test_begin: int | None = None
    """Unix seconds from which on all is held out, in place of a share."""
    validation_begin: int | None = None
    """Unix seconds before that from which on settings are compared; else the same share of what is not held
    out."""
    validates: bool = False
    """Whether to hold out what is before the test time in place of it, and to measure up to that alone."""
    feedviews_per_user: int = 3
    synthetic: bool = False

    def narrowed(self, names: Sequence[str] | None, seeds: Sequence[int] | None) -> "Recipe":
        """Return the recipe with some of its variants, or with other seeds.

        Raises `ValueError` if a name is not a variant of this recipe.
        """
        known = [variant.name for variant in self.variants]
        for name in names or ():
            if name not in known:
                raise ValueError(f"variant is {name}; allowed: {', '.join(known)}")
        chosen = tuple(variant for variant in self.variants if names is None or variant.name in names)
        return replace(self, variants=chosen, seeds=self.seeds if seeds is None else tuple(seeds))

    def test_time(self, dataset: InteractionDataset) -> tuple[int, int]:
        """Return the unix seconds from which on a dataset is held out, and those up to which is measured."""
        share, given = 1 - self.test_share, (self.validation_begin, self.test_begin)
        validation, test = (
            int(np.quantile(dataset.feedviews.timestamp_F, part)) if begin is None else begin
            for begin, part in zip(given, (share * share, share), strict=True)
        )
        return (validation, test) if self.validates else (test, FOREVER)

    def seeds_of(self, variant: Variant) -> tuple[int, ...]:
        """Return the seeds that a variant is trained with."""
        return self.seeds[: variant.most_seeds]

    def model_config(self, dataset: InteractionDataset, variant: Variant) -> CatalogueConfig:
        """Return sizes for a dataset, with what the dataset knows of its items."""
        kind: type[CatalogueConfig] = find_model(variant.spec).config
        sizes = self.second.model if issubclass(kind, SecondRankerConfig) else self.sizes
        fields = dataset.catalogue_fields
        if variant.vectors is not None:
            given = self.model_config(dataset, variant.vectors)
            if not isinstance(given, ItemConfig):
                raise ValueError(f"variant is {variant.vectors.name}, which has no item vectors")
            fields = with_vectors(kind, fields, given.item_dim)
        return sized(kind, "demo", fields | _known(kind, sizes) | variant.model)

    def training_config(self, dataset: InteractionDataset, variant: Variant, seed: int) -> TrainingConfig:
        """Return the budget, which variants share, with what each model knows of the losses.

        Second rankers have one of their own.
        """
        kind: type[TrainingConfig] = find_model(variant.spec).training
        if issubclass(find_model(variant.spec).config, SecondRankerConfig):
            return kind.model_validate({"seed": seed} | self.second.training | variant.training)
        weights = tuple(self.action_weights.get(action, 1.0) for action in dataset.info.actions)
        fields = self.training.model_dump() | {"action_weights": weights, "seed": seed}
        return kind.model_validate(_known(kind, fields) | variant.training)

    def blended_config(self, model: ModelConfig, seed: int) -> BlendedConfig:
        """Return how examples are drawn."""
        fields = {"max_history": model.max_history, "seed": seed} | self.blended
        return BlendedConfig.model_validate(fields)

    def slate_config(self, seed: int) -> SlateConfig:
        """Return how examples of second rankers are drawn."""
        return SlateConfig.model_validate({"seed": seed} | self.second.slates)


_Setting = tuple[dict[str, Any], dict[str, Any]]
"""Of the model and of its training."""


def _known(kind: type[Config], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a model has: not every model has both heads and both losses."""
    return {name: value for name, value in fields.items() if name in kind.model_fields}


_AMAZON_SIZES = {
    "layers": 2, "width": 64, "heads": 2, "max_history": 50, "window_block": 1, "max_candidates": 64,
    "attribute_dim": 64, "dropout": 0.3, "head_hidden": 8, "similarity_weight": 15.0,
}  # fmt: skip

_KUAIRAND_SIZES = {
    "layers": 2, "width": 32, "heads": 2, "max_history": 64, "window_block": 16, "item_dim": 8, "id_dim": 4,
    "dropout": 0.3, "time_periods_s": (DAY_S,),
    "half_lives_s": (900, 7_200, DAY_S, 90 * DAY_S),
}  # fmt: skip

_KUAIRAND_TEST = int(datetime(2022, 4, 16, 16, tzinfo=UTC).timestamp())
"""17 April by the time zone of the log's dates."""

_SIMULATOR_SIZES = {
    "layers": 2, "width": 64, "heads": 2, "max_history": 64, "window_block": 16, "max_candidates": 64,
    "item_dim": 32, "id_dim": 32, "head_hidden": 16, "dropout": 0.1,
}  # fmt: skip

_NEWS_SIZES = {
    "layers": 2, "width": 64, "heads": 2, "max_history": 64, "window_block": 16, "item_dim": 32, "id_dim": 16,
    "dropout": 0.2, "time_periods_s": (DAY_S, 7 * DAY_S),
}  # fmt: skip


def _news(dataset: str) -> Recipe:
    """Slates of articles that are new every day: attributes must tell what ids cannot."""
    return Recipe(
        dataset=dataset,
        protocol="future_feedviews",
        sizes=_NEWS_SIZES,
        training=JointTraining(epochs=10, batch_size=64, learning_rate=1e-3, id_dropout=0.5),
        second=SecondRanker(
            model={"item_dim": 16, "id_dim": 16, "cross_dim": 32, "head_hidden": 32},
            training={
                "epochs": 3,
                "batch_size": 32,
                "time_window_s": 0,
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
                "id_dropout": 0.5,
            },
            slates={"feedviews_per_user": 100, "kept_without_engagement": 1.0},
        ),
        variants=(UNIFIED, RANKING_ONLY, RETRIEVAL_ONLY, TRANSACT_ALONE),
        feedviews_per_user=100,
    )


RECIPES = {
    "movielens": Recipe(
        dataset="movielens",
        protocol="leave_one_out",
        sizes=dict(DEMO_SIZES),
        training=JointTraining(
            epochs=18,
            batch_size=32,
            learning_rate=2e-3,
            ranking_loss_weight=0.3,
            outcome_probability=0.0,
            id_dropout=0.1,
        ),
        variants=(UNIFIED, RETRIEVAL_ONLY, SASREC),
        seeds=(0, 1, 2),
    ),
    "amazon": Recipe(
        dataset="amazon",
        protocol="leave_one_out",
        sizes=_AMAZON_SIZES,
        training=JointTraining(
            epochs=16,
            batch_size=256,
            learning_rate=1e-3,
            in_batch_negatives=1024,
            random_negatives=2048,
            ranking_loss_weight=0.2,
            outcome_probability=0.0,
            id_dropout=0.1,
        ),
        blended={"last_feedview_probability": 1.0, "sampled_impressions_per_feedview": 8},
        variants=(UNIFIED, SASREC),
    ),
    "kuairand": Recipe(
        dataset="kuairand",
        protocol="future_feedviews",
        sizes=_KUAIRAND_SIZES,
        training=JointTraining(
            epochs=8,
            batch_size=16,
            learning_rate=3e-3,
            weight_decay=1.0,
            retrieval_loss_weight=0.02,
            action_mask_probability=0.4,
            id_dropout=0.8,
        ),
        action_weights={"profile_enter": 4.0},
        # Slates of one item or two: few of them tell of users who pass by.
        blended={"feedviews_per_example": 16, "kept_without_engagement": 1.0},
        second=SecondRanker(
            model={
                "item_dim": 16,
                "id_dim": 16,
                "cross_dim": 32,
                "head_hidden": 32,
                "dropout": 0.3,
                "half_lives_s": (900, 7_200, DAY_S, 4 * DAY_S, 90 * DAY_S),
            },
            training={
                "epochs": 4,
                "batch_size": 128,
                "time_window_s": 0,
                "learning_rate": 1e-3,
                "weight_decay": 1.0,
                "id_dropout": 0.8,
            },
            slates={"feedviews_per_user": 1_000, "kept_without_engagement": 1.0},
        ),
        variants=(UNIFIED, RANKING_ONLY, TRANSACT_ALONE),
        seeds=(0, 1, 2),
        feedviews_per_user=1_000,
        test_begin=_KUAIRAND_TEST,
        validation_begin=_KUAIRAND_TEST - 2 * DAY_S,
    ),
    "ebnerd": _news("ebnerd"),
    "mind": _news("mind"),
    "simulator": Recipe(
        dataset="simulator",
        protocol="future_feedviews",
        sizes=_SIMULATOR_SIZES,
        training=JointTraining(epochs=12, batch_size=16, learning_rate=2e-3),
        second=SecondRanker(
            training={"epochs": 2, "time_window_s": 0},
            slates={"feedviews_per_user": 3},
        ),
        variants=(
            UNIFIED,
            RANKING_ONLY,
            RETRIEVAL_ONLY,
            INTERLEAVED,
            MULTI_TOKEN,
            TWO_STEPS,
            TRANSACT,
            *(masking(probability) for probability in (0.0, 0.1, 0.3)),
            *(depth(layers) for layers in (4, 8)),
            *(length(events) for events in (16, 32)),
        ),
        seeds=(0, 1, 2),
        synthetic=True,
    ),
    "lifelong": Recipe(
        dataset="lifelong",
        protocol="future_feedviews",
        sizes=_SIMULATOR_SIZES,
        # Few users, so that as many steps as on the simulator are many passes.
        training=JointTraining(epochs=240, batch_size=16, learning_rate=2e-3, checkpoint_every=20),
        second=SecondRanker(
            training={"epochs": 1, "batch_size": 16, "time_window_s": 0},
            slates={"feedviews_per_user": 20},
        ),
        variants=(UNIFIED, TRANSACT, TRANSACT_V2),
        seeds=(0, 1, 2),
        feedviews_per_user=20,
        synthetic=True,
    ),
}

ABLATIONS = {
    "simulator": replace(RECIPES["simulator"], variants=(TRANSACT, *TRANSACT_ABLATIONS)),
    "lifelong": replace(RECIPES["lifelong"], variants=(TRANSACT, TRANSACT_V2, *TRANSACT_V2_ABLATIONS)),
}
"""Of the second rankers, one thing at a time."""

_LIGHTER: _Setting = ({"dropout": 0.1}, {"weight_decay": 0.1, "id_dropout": 0.5})
_STRONGER: _Setting = ({"dropout": 0.3}, {"weight_decay": 1.0, "id_dropout": 0.8})
_THREE, _FIVE = (900, 3 * DAY_S, 90 * DAY_S), (900, 7_200, DAY_S, 4 * DAY_S, 90 * DAY_S)


def _tuning(recipe: Recipe) -> Recipe:
    """Every setting with every number of epochs, one seed."""
    settings = (
        ("a", "lighter regularisation, 3 half-lives", _LIGHTER, _THREE),
        ("b", "stronger regularisation, 3 half-lives", _STRONGER, _THREE),
        ("c", "lighter regularisation, 5 half-lives", _LIGHTER, _FIVE),
        ("d", "stronger regularisation, 5 half-lives", _STRONGER, _FIVE),
    )
    variants = tuple(
        without(
            TRANSACT_ALONE,
            f"{name}-{epochs}",
            f"{what}, epochs {epochs}",
            model=model | {"half_lives_s": half_lives_s},
            training=training | {"epochs": epochs},
        )
        for name, what, (model, training), half_lives_s in settings
        for epochs in (1, 2, 4)
    )
    return replace(recipe, variants=variants, seeds=(0,), validates=True)


TUNING = {name: _tuning(RECIPES[name]) for name in ("kuairand", "ebnerd", "mind")}
"""Settings of a second ranker, compared before the test time."""
