"""Presets are the sizes they promise, and a value out of range is refused by the name of its field."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.support.ranked import ranked
from unipinrec.models.common.tokens import Events
from unipinrec.models.config import PRESETS, JointTraining
from unipinrec.models.unified.config import DEMO_TRAINING, UnifiedConfig, UnifiedTraining, preset
from unipinrec.models.unified.module import UnifiedRecommender

SIZES = {
    "tiny": (2, 32, 2, 16, 16),
    "demo": (4, 128, 4, 128, 128),
    "bench-cpu": (6, 256, 4, 512, 128),
    "paper": (12, 768, 12, 992, 656),
}
"""Layers, width, heads, events and candidates."""

SMALL: dict[str, Any] = {
    "num_items": 10,
    "num_actions": 2,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "max_history": 4,
    "window_block": 2,
    "max_candidates": 3,
}


def test_every_preset_has_its_sizes_listed_here() -> None:
    assert set(PRESETS) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_builds_a_model_of_its_sizes(name: str) -> None:
    config = preset(name, num_items=50, num_actions=3, num_surfaces=2)
    found = (config.layers, config.width, config.heads, config.max_history, config.max_candidates)
    assert found == SIZES[name]
    with torch.device("meta"):
        model = UnifiedRecommender(config)
    layers, width, _, events, _ = SIZES[name]
    layer = (
        (2 * width + width * 3 * width + 3 * width)
        + (width * width + width)
        + (2 * width + width * 4 * width + 4 * width + 4 * width * width + width)
    )
    assert sum(weight.numel() for weight in model.trunk.parameters()) == layers * layer + 2 * width
    assert tuple(model.tokenizer.position.weight.shape) == (1 + events, width)
    assert tuple(model.embedder.id_table.weight.shape) == (50, config.id_dim)
    assert model.ranking_head.bias.shape == (3,)


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_a_preset_model_encodes_its_longest_history_and_ranks_its_most_candidates(name: str) -> None:
    config = preset(name, num_items=50, num_actions=3, num_surfaces=2)
    torch.manual_seed(0)
    model = UnifiedRecommender(config).eval()
    layers, width, heads, events, candidates = SIZES[name]
    zero_1N = torch.zeros(1, events, dtype=torch.long)
    zero_1 = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        history = Events(model.embedder(zero_1N), zero_1N, zero_1N, zero_1N, zero_1N > 0)
        hidden, past = model.encode(history)
        row_1K = torch.arange(candidates).unsqueeze(0) % 50
        probability = ranked(model, (model.embedder(row_1K), row_1K), (zero_1, zero_1), history, [events])
    assert hidden.shape == (1, 1 + events, width)
    assert past.shape == (layers, 2, 1, heads, 1 + events, width // heads)
    assert probability.shape == (1, candidates, 3)
    assert bool(probability.isfinite().all())


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^preset is 'huge'; allowed: tiny, demo, bench-cpu, paper$"):
        preset("huge", num_items=1, num_actions=1)


def refusal(kind: type[UnifiedConfig] | type[JointTraining], fields: dict[str, Any]) -> tuple[Any, str]:
    """The field and the message of the one thing that is refused."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(fields)
    (error,) = refused.value.errors()
    return error["loc"], error["msg"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_items", 0, "greater than or equal to 1"),
        ("num_actions", 0, "greater than or equal to 1"),
        ("num_actions", 33, "less than or equal to 32"),
        ("num_surfaces", 0, "greater than or equal to 1"),
        ("layers", 0, "greater than or equal to 1"),
        ("width", 7, "greater than or equal to 8"),
        ("heads", 0, "greater than or equal to 1"),
        ("max_history", 0, "greater than or equal to 1"),
        ("window_block", 0, "greater than or equal to 1"),
        ("max_candidates", 0, "greater than or equal to 1"),
        ("item_dim", 3, "greater than or equal to 4"),
        ("id_dim", 3, "greater than or equal to 4"),
        ("action_dim", 0, "greater than or equal to 1"),
        ("feedforward_ratio", 0, "greater than or equal to 1"),
        ("head_hidden", 0, "greater than or equal to 1"),
        ("dropout", -0.1, "greater than or equal to 0"),
        ("dropout", 1.0, "less than 1"),
        ("width", 8.5, "valid integer"),
        ("depth", 3, "Extra inputs are not permitted"),
    ],
)
def test_a_size_out_of_range_is_refused_by_name(field: str, value: float, message: str) -> None:
    location, text = refusal(UnifiedConfig, {**SMALL, field: value})
    assert location == (field,)
    assert message in text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "greater than or equal to 1"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("learning_rate", 0.0, "greater than 0"),
        ("warmup_fraction", 1.0, "less than 1"),
        ("weight_decay", -1e-9, "greater than or equal to 0"),
        ("action_mask_probability", 1.0, "less than 1"),
        ("action_mask_probability", -0.1, "greater than or equal to 0"),
        ("in_batch_negatives", 0, "greater than or equal to 1"),
        ("random_negatives", 0, "greater than or equal to 1"),
        ("ranking_loss_weight", -1.0, "greater than or equal to 0"),
        ("gradient_clip", 0.0, "greater than 0"),
        ("checkpoint_every", 0, "greater than or equal to 1"),
        ("momentum", 0.9, "Extra inputs are not permitted"),
    ],
)
def test_a_training_choice_out_of_range_is_refused_by_name(field: str, value: float, message: str) -> None:
    location, text = refusal(JointTraining, {"epochs": 1, field: value})
    assert location == (field,)
    assert message in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "Value error, heads is 3; it must divide width 8"),
        ({"heads": 16}, "Value error, heads is 16; it must divide width 8"),
        ({"window_block": 5}, "Value error, window_block is 5; allowed: 1 to max_history 4"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(changed: dict[str, int], message: str) -> None:
    assert refusal(UnifiedConfig, {**SMALL, **changed}) == ((), message)


@pytest.mark.parametrize(
    "changed",
    [
        {"heads": 1},
        {"heads": 8},
        {"window_block": 1},
        {"window_block": 4},
        {"num_actions": 1},
        {"num_actions": 32},
        {"max_history": 1, "window_block": 1},
        {"item_dim": 4, "id_dim": 4, "action_dim": 1, "head_hidden": 1, "feedforward_ratio": 1},
        {"dropout": 0.0},
        {"dropout": 0.99},
    ],
)
def test_sizes_at_the_ends_of_their_ranges_are_kept(changed: dict[str, Any]) -> None:
    assert UnifiedConfig(**{**SMALL, **changed}).model_dump(include=set(changed)) == changed


def test_head_width_and_positions_follow_from_the_sizes() -> None:
    config = UnifiedConfig(**SMALL)
    assert (config.head_dim, config.max_positions) == (4, 5)


def test_a_configuration_cannot_be_changed_and_survives_json() -> None:
    config, field = UnifiedConfig(**SMALL), "layers"
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, 2)
    assert UnifiedConfig.model_validate_json(config.model_dump_json()) == config
    assert UnifiedTraining.model_validate_json(DEMO_TRAINING.model_dump_json()) == DEMO_TRAINING
