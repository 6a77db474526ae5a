"""Trainings that one process runs, or several together."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unipinrec.data.blended import BlendedConfig, BlendedDataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.config import sized
from unipinrec.models.registry import find_model
from unipinrec.training.hardware import Hardware
from unipinrec.training.trainer import train

EPOCHS = 4
LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unified": (
        "unified",
        {"time_offsets_s": (0, 2000)},
        {
            "id_dropout": 0.2,
            "relaxation_targets": 2,
            "session_gap_s": 5000,
            "action_weights": (1.0, 2.0),
            "ranking_loss_weight": 0.5,
            "second_step_weight": 0.7,
            "second_step_offsets_s": (2000,),
        },
    ),
    "ranking_only": ("unified", {}, {"retrieval_loss_weight": 0.0}),
    "interleaved": ("interleaved", {}, {}),
    "sasrec": ("sasrec", {}, {}),
}
"""Model, its sizes and its losses."""


class PowerCutError(Exception):
    """Stops a run from outside."""


class Cut(BlendedDataset):
    """The same examples, until the third epoch begins."""

    def set_epoch(self, epoch: int) -> None:
        if epoch == 2:
            raise PowerCutError
        super().set_epoch(epoch)


def run(
    name: str,
    data: Path,
    folder: Path,
    hardware: Hardware,
    kind: Callable[..., BlendedDataset] = BlendedDataset,
    **changes: object,
) -> Path:
    spec_name, sizes, losses = LOSSES[name]
    spec = find_model(spec_name)
    interactions = InteractionDataset.load(data)
    config = sized(spec.config, "tiny", interactions.catalogue_fields | sizes | changes)
    fields = {"epochs": EPOCHS, "batch_size": 16, "learning_rate": 1e-2, "checkpoint_every": 2} | losses
    drawn = {"in_batch_negatives": 32, "random_negatives": 16}
    training = spec.training.model_validate(fields | drawn)
    examples = kind(interactions, BlendedConfig(max_history=16, sampled_impressions_per_feedview=4))
    return train(spec, examples, config, training, folder, hardware=hardware)


def run_together(rank: int, processes: int, port: int, data: Path, folder: Path) -> None:
    """Run every training in one of several processes; one is also cut, and what that left is copied."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    with Hardware.choose("cpu", "float32", workers=0).joined() as hardware:
        for name in LOSSES:
            run(name, data, folder / name, hardware)
        try:
            run("unified", data, folder / "cut", hardware, kind=Cut)
        except PowerCutError:
            hardware.wait()
            if hardware.leads:
                shutil.copytree(folder / "cut", folder / "left")
            hardware.wait()
            run("unified", data, folder / "cut", hardware)


def curves(folder: Path) -> dict[str, list[float]]:
    """Losses by epoch, as written for TensorBoard."""
    accumulator = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [event.value for event in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]
    }
