"""Checkpoints: a folder of safetensors and JSON, renamed into place when it is complete."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from unipinrec.config import Config, ModelConfig, TrainingConfig
from unipinrec.models.unified import UnifiedRecommender


class CheckpointState(Config):
    """What a checkpoint says about itself."""

    epoch: int
    """Epochs finished."""
    step: int
    """Optimiser steps taken."""
    model: ModelConfig
    training: TrainingConfig
    dataset: dict[str, str]
    """Hashes of the dataset's tables: item rows mean something only together with them."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Losses of the last epoch, by name."""


def save_checkpoint(
    folder: Path, state: CheckpointState, model: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Path:
    """Write `folder/epoch-<n>` and drop the checkpoints beside it. Returns the new one's path."""
    final = folder / f"epoch-{state.epoch:04d}"
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.items()}, partial / "model.safetensors")
    save_file(_flatten(optimizer), partial / "optimizer.safetensors")
    (partial / "state.json").write_text(state.model_dump_json(indent=2))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for other in _checkpoints(folder):
        if other != final:
            shutil.rmtree(other)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a training folder, or None."""
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("epoch-")), default=None)


def load_state(checkpoint: Path) -> CheckpointState:
    """The checkpoint's description."""
    return CheckpointState.model_validate_json((checkpoint / "state.json").read_text())


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Every weight by name: `model.*` and the loss's `softmax.*`."""
    return load_file(checkpoint / "model.safetensors")


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the stored moments back; the optimiser must hold the same parameters in the same order."""
    stored = load_file(checkpoint / "optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    whole: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def load_model(
    checkpoint: Path, make_model: Callable[[ModelConfig], UnifiedRecommender] = UnifiedRecommender
) -> UnifiedRecommender:
    """The trained model, in evaluation mode."""
    model = make_model(load_state(checkpoint).model)
    prefix = "model."
    weights = load_weights(checkpoint)
    model.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    return model.eval()


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("epoch-*") if path.suffix != ".partial"]


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.contiguous() for i, entry in state.items() for key, value in entry.items()}
