"""Training learns, is repeatable, and an interruption changes nothing."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from tests.support.clusters import ITEMS, cluster_dataset
from unipinrec.data.blended import BlendedConfig, BlendedDataset, BlendedExample
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.history_objective import JointObjective
from unipinrec.models.common.objective import WHOLE
from unipinrec.models.config import JointTraining
from unipinrec.models.unified.config import UnifiedConfig, UnifiedTraining, preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.spec import SPEC as UNIFIED
from unipinrec.training.checkpoint import CheckpointMismatchError, latest_checkpoint
from unipinrec.training.trainer import learning_rate, train

USERS = 48
EPOCHS = 6
CONFIG = UnifiedTraining(
    epochs=EPOCHS,
    batch_size=16,
    learning_rate=1e-2,
    in_batch_negatives=32,
    random_negatives=32,
    checkpoint_every=2,
)

OF_ITEMS = ("id_slot_VH", "attribute_VX", "content_VF", "cold_V", "item_rate_VA")
BUFFERS = (*OF_ITEMS, "prior_A", "user_strength_A", "counter_DW", "total")
"""What a checkpoint holds besides learned weights and does not depend on the seed."""


@pytest.fixture(scope="module")
def model_config() -> UnifiedConfig:
    sizes = preset("tiny", num_items=ITEMS, num_actions=2)
    return sizes.model_copy(update={"dropout": 0.1})


@pytest.fixture(scope="module")
def interactions(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    return cluster_dataset(tmp_path_factory.mktemp("training") / "data", USERS)


@pytest.fixture(scope="module")
def dataset(interactions: InteractionDataset) -> BlendedDataset:
    return BlendedDataset(interactions, BlendedConfig(max_history=16, sampled_impressions_per_feedview=4))


@pytest.fixture(scope="module")
def trained(
    dataset: BlendedDataset, model_config: UnifiedConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a run without interruption."""
    return train(UNIFIED, dataset, model_config, CONFIG, tmp_path_factory.mktemp("whole"))


class PowerCutError(Exception):
    """Stops a run from outside."""


class Interrupted(BlendedDataset):
    """The same examples, until the given epoch has joined 20 of them."""

    def __init__(self, interactions: InteractionDataset, config: BlendedConfig, epoch: int) -> None:
        super().__init__(interactions, config)
        self._last, self._left = epoch, 20

    def __getitem__(self, index: int) -> BlendedExample:
        if self._epoch == self._last:
            self._left -= 1
            if self._left == 0:
                raise PowerCutError
        return super().__getitem__(index)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor
        for name in ("model", "optimizer")
        for key, tensor in load_file(checkpoint / f"{name}.safetensors").items()
    }


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


@pytest.mark.parametrize(("epoch", "resumed_from"), [(1, None), (3, "epoch-0002"), (5, "epoch-0004")])
def test_an_interrupted_run_that_is_resumed_equals_one_without_interruption(
    interactions: InteractionDataset,
    dataset: BlendedDataset,
    model_config: UnifiedConfig,
    trained: Path,
    tmp_path: Path,
    epoch: int,
    resumed_from: str | None,
) -> None:
    config = BlendedConfig(max_history=16, sampled_impressions_per_feedview=4)
    with pytest.raises(PowerCutError):
        train(UNIFIED, Interrupted(interactions, config, epoch), model_config, CONFIG, tmp_path)
    left = latest_checkpoint(tmp_path)
    assert (left.name if left else None) == resumed_from
    resumed = train(UNIFIED, dataset, model_config, CONFIG, tmp_path)
    assert resumed.name == trained.name == "epoch-0006"
    assert identical(tensors(resumed), tensors(trained))
    assert (resumed / "state.json").read_text() == (trained / "state.json").read_text()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    dataset: BlendedDataset, model_config: UnifiedConfig, trained: Path, tmp_path: Path
) -> None:
    again = train(UNIFIED, dataset, model_config, CONFIG, tmp_path / "again")
    assert identical(tensors(again), tensors(trained))
    other_seed = CONFIG.model_copy(update={"seed": 1})
    other = tensors(train(UNIFIED, dataset, model_config, other_seed, tmp_path / "other"))
    same = [name for name, tensor in tensors(trained).items() if torch.equal(tensor, other[name])]
    learned = [name for name in same if not name.endswith((".step", *BUFFERS))]
    assert learned == []


def test_the_losses_fall_and_are_written_for_tensorboard(trained: Path) -> None:
    losses = scalars(trained.parent)
    assert {"loss/total", "loss/retrieval"} <= losses.keys()
    assert len(losses) == 4
    for values in losses.values():
        assert [step for step, _ in values] == list(range(1, EPOCHS + 1))
        assert all(math.isfinite(value) for _, value in values)
    # Actions are drawn at random here, so there is nothing to learn about those of the history.
    for name in ("loss/total", "loss/retrieval", "loss/candidate_actions"):
        assert losses[name][-1][1] < losses[name][0][1]
    last = {name: values[-1][1] for name, values in losses.items()}
    total = last.pop("loss/total")
    assert total == pytest.approx(sum(last.values()), rel=1e-5)


def test_a_checkpoint_holds_safetensors_and_json_alone_and_older_ones_are_dropped(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    assert {path.name for path in trained.parent.iterdir()} == {"epoch-0006", "tensorboard"}
    for name in ("model", "optimizer"):
        header = (trained / f"{name}.safetensors").read_bytes()
        assert header[8:9] == b"{"
        length = int.from_bytes(header[:8], "little")
        assert json.loads(header[8 : 8 + length])


def test_a_checkpoint_says_what_made_it(trained: Path, model_config: UnifiedConfig) -> None:
    state = json.loads((trained / "state.json").read_text())
    steps = EPOCHS * math.ceil(USERS / CONFIG.batch_size)
    assert (state["spec"], state["epoch"], state["step"]) == ("unified", EPOCHS, steps)
    assert UnifiedConfig(**state["model"]) == model_config
    assert UnifiedTraining(**state["training"]) == CONFIG
    last = {name.removeprefix("loss/"): values[-1][1] for name, values in scalars(trained.parent).items()}
    assert state["metrics"] == pytest.approx(last, rel=1e-6)


def test_a_finished_run_is_not_trained_further(
    dataset: BlendedDataset, model_config: UnifiedConfig, trained: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert train(UNIFIED, dataset, model_config, CONFIG, trained.parent) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda model, training: (model.model_copy(update={"width": 64}), training),
        lambda model, training: (model.model_copy(update={"num_items": ITEMS + 1}), training),
        lambda model, training: (model, training.model_copy(update={"seed": 1})),
        lambda model, training: (model, training.model_copy(update={"epochs": EPOCHS + 1})),
    ],
    ids=["width", "num_items", "seed", "epochs"],
)
def test_a_folder_of_another_configuration_is_refused(
    dataset: BlendedDataset,
    model_config: UnifiedConfig,
    trained: Path,
    change: Callable[[UnifiedConfig, UnifiedTraining], tuple[UnifiedConfig, UnifiedTraining]],
) -> None:
    model, training = change(model_config, CONFIG)
    message = f"^{trained} is of another configuration or dataset; use another folder or remove it$"
    with pytest.raises(CheckpointMismatchError, match=message):
        train(UNIFIED, dataset, model, training, trained.parent)


def test_the_learning_rate_warms_up_linearly_and_decays_along_a_cosine_to_zero() -> None:
    config = UnifiedTraining(epochs=1, learning_rate=0.5, warmup_fraction=0.2)
    rates = [learning_rate(step, 20, config) for step in range(21)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.25 * (1 + math.cos(math.pi / 4)))
    assert rates[12] == pytest.approx(0.25)
    assert rates[20] == pytest.approx(0.0, abs=1e-12)
    assert all(after < before for before, after in pairwise(rates[4:]))


def test_log_q_is_the_chance_that_one_drawn_negative_is_the_item(model_config: UnifiedConfig) -> None:
    config = JointTraining(epochs=1, in_batch_negatives=300, random_negatives=100)
    objective = JointObjective(UnifiedRecommender(model_config), config, positive_mask=1)
    objective.sketch.add(torch.arange(ITEMS).repeat_interleave(torch.arange(ITEMS) + 1))
    total = sum(range(1, ITEMS + 1))
    expected = [0.75 * (row + 1) / total + 0.25 / ITEMS for row in range(ITEMS)]
    log_q_V = objective._log_q(torch.arange(ITEMS))
    assert log_q_V.exp().tolist() == pytest.approx(expected, rel=1e-5)
    assert float(log_q_V.exp().sum()) == pytest.approx(1.0, rel=1e-5)


def test_weights_for_another_number_of_actions_are_refused(model_config: UnifiedConfig) -> None:
    config = JointTraining(epochs=1, action_weights=(1.0,) * (model_config.num_actions + 1))
    message = (
        f"^action_weights has {model_config.num_actions + 1} values; allowed: {model_config.num_actions}$"
    )
    with pytest.raises(ValueError, match=message):
        JointObjective(UnifiedRecommender(model_config), config, positive_mask=1)


def test_id_dropout_hides_as_many_ids_as_it_says(model_config: UnifiedConfig) -> None:
    config = JointTraining(epochs=1, id_dropout=0.3)
    objective = JointObjective(UnifiedRecommender(model_config), config, positive_mask=1)
    torch.manual_seed(3)
    hidden = objective._hidden_ids(torch.Size((20_000,)), WHOLE)
    assert hidden is not None
    assert float(hidden.double().mean()) == pytest.approx(0.3, abs=0.02)
    assert objective.eval()._hidden_ids(torch.Size((20_000,)), WHOLE) is None
