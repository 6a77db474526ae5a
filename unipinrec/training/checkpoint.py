"""Checkpoints: a folder of safetensors and JSON, renamed into place when it is complete."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unipinrec.config import Config, TrainingConfig
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.config import CatalogueConfig
from unipinrec.models.registry import find_model

STATE = "state.json"
"""What every checkpoint has: its description."""


class CheckpointMismatchError(Exception):
    """A folder holds a checkpoint of another configuration, dataset or format."""


class CheckpointState(Config):
    """What a checkpoint says about itself."""

    spec: str
    """Name of the model in `unipinrec.models.registry`."""
    epoch: int
    """Epochs finished."""
    step: int
    """Optimiser steps taken."""
    model: SerializeAsAny[CatalogueConfig]
    training: SerializeAsAny[TrainingConfig]
    dataset: dict[str, str]
    """Hashes of the tables it was trained on: those of the dataset, without which item rows mean nothing, and
    of whatever else the examples were drawn from."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Losses of the last epoch, by name."""

    @model_validator(mode="before")
    @classmethod
    def _use_the_models_classes(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if "spec" not in fields:
            return fields
        spec = find_model(fields["spec"])
        kinds: dict[str, type[Config]] = {"model": spec.config, "training": spec.training}
        return fields | {name: kind.model_validate(fields[name]) for name, kind in kinds.items()}


def save_checkpoint(
    folder: Path, state: CheckpointState, model: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Path:
    """Write `folder/epoch-<n>` and drop the checkpoints beside it. Returns the new one's path."""
    final = checkpoint_path(folder, state.epoch)
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.items()}, partial / "model.safetensors")
    save_file(_flatten(optimizer), partial / "optimizer.safetensors")
    (partial / STATE).write_text(state.model_dump_json(indent=2))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for other in _checkpoints(folder):
        if other != final:
            shutil.rmtree(other)
    return final


def save_model(
    folder: Path, spec: str, config: CatalogueConfig, model: nn.Module, dataset: dict[str, str]
) -> Path:
    """Write a model that was made and not trained, as if after one epoch. Returns the checkpoint's path."""
    training = find_model(spec).training(epochs=1)
    state = CheckpointState(spec=spec, epoch=1, step=1, model=config, training=training, dataset=dataset)
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    return save_checkpoint(folder, state, weights, torch.optim.AdamW(model.parameters()))


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint after an epoch belongs."""
    return folder / f"epoch-{epoch:04d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a training folder, or None."""
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("epoch-")), default=None)


def load_state(checkpoint: Path) -> CheckpointState:
    """Return the checkpoint's description.

    Raises `CheckpointMismatchError` if another version of this code wrote it.
    """
    try:
        return CheckpointState.model_validate_json((checkpoint / STATE).read_text())
    except ValidationError as error:
        raise CheckpointMismatchError(
            f"{checkpoint} is of another format; use another folder or remove it"
        ) from error


def fingerprint(checkpoint: Path) -> str:
    """Return the SHA-256 of a model's configuration and weights, 64 hexadecimal digits: which model it is."""
    digest = hashlib.sha256(load_state(checkpoint).model.model_dump_json().encode())
    digest.update((checkpoint / "model.safetensors").read_bytes())
    return digest.hexdigest()


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return every weight by name: `model.*`, and those of the losses."""
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


def load_model(checkpoint: Path) -> Any:
    """Return the trained model in evaluation mode, of the class that its spec makes."""
    state = load_state(checkpoint)
    model = find_model(state.spec).make(state.model)
    prefix = "model."
    weights = load_weights(checkpoint)
    model.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    return model.eval()


def load_item_vectors(checkpoint: Path, dataset: InteractionDataset) -> Tensor:
    """Return the trained vectors of a dataset's items, [V, E].

    Raises `CheckpointMismatchError` if the model was trained with another dataset, or has no vectors.
    """
    if not dataset.info.sha256.items() <= load_state(checkpoint).dataset.items():
        raise CheckpointMismatchError(
            f"{checkpoint} was trained with another dataset than {dataset.info.name}"
        )
    embedder = getattr(load_model(checkpoint), "embedder", None)
    if not isinstance(embedder, ItemEmbedder):
        raise CheckpointMismatchError(f"{checkpoint} holds a model without item vectors")
    return embedder.all_vectors()


def load_offline(checkpoint: Path) -> Any:
    """Return the trained model as evaluations ask it (`unipinrec.evaluation.recommender`)."""
    return find_model(load_state(checkpoint).spec).offline(load_model(checkpoint))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("epoch-*") if path.suffix != ".partial"]


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.contiguous() for i, entry in state.items() for key, value in entry.items()}
