"""Trains any model of the registry on its examples, in one process or several."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unipinrec.config import TrainingConfig
from unipinrec.models.common.objective import Losses, Objective, Share
from unipinrec.models.spec import C, Examples, ModelSpec, T
from unipinrec.training.checkpoint import (
    CheckpointMismatchError,
    CheckpointState,
    checkpoint_path,
    latest_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
)
from unipinrec.training.hardware import Hardware
from unipinrec.training.report import TrainingReport

READ_EVERY = 10
"""Steps between readings of the losses, each of which waits for the device and the other processes."""


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Return a step's learning rate: linear warm-up, then cosine decay to zero."""
    warmup = max(1, round(config.warmup_fraction * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    spec: ModelSpec[Any, C, T],
    examples: Examples,
    model_config: C,
    config: T,
    folder: Path,
    *,
    hardware: Hardware | None = None,
) -> Path:
    """Train to the last epoch and return the final checkpoint's path.

    A folder that holds a checkpoint of the same configuration is continued from there; the result is the
    same as without the interruption, since every epoch is seeded on its own. `hardware` is a CPU and one
    process, unless another is given; several processes each call this, and share `folder`.

    Raises `ValueError` if there is no example, or the batch size is no multiple of the processes, and
    `CheckpointMismatchError` if the folder holds a checkpoint of another configuration.
    """
    hardware = hardware or Hardware()
    if len(examples) == 0:
        raise ValueError("the dataset has 0 users with a feedview to train on; allowed: 1 or more")
    if config.batch_size % hardware.processes:
        raise ValueError(
            f"batch_size is {config.batch_size}; allowed: multiples of {hardware.processes}, the processes"
        )
    wanted = CheckpointState(
        spec=spec.name,
        epoch=0,
        step=0,
        model=model_config,
        training=config,
        dataset=examples.sha256,
    )
    checkpoint = latest_checkpoint(folder)
    done = load_state(checkpoint) if checkpoint else wanted
    if done.model_copy(update={"epoch": 0, "step": 0, "metrics": {}}) != wanted:
        raise CheckpointMismatchError(
            f"{checkpoint} is of another configuration or dataset; use another folder or remove it"
        )
    if checkpoint and done.epoch == config.epochs:
        return checkpoint
    torch.manual_seed(config.seed)
    objective = spec.objective(spec.make(model_config), config, examples).to(hardware.device)
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    if checkpoint:
        objective.load_state_dict(load_weights(checkpoint))
        load_optimizer(checkpoint, optimizer)
    return _Run(objective, optimizer, examples, config, hardware).to_the_end(done, folder)


@dataclass(frozen=True, slots=True)
class _Run:
    objective: Objective
    optimizer: torch.optim.Optimizer
    examples: Examples
    config: TrainingConfig
    hardware: Hardware

    def to_the_end(self, state: CheckpointState, folder: Path) -> Path:
        config, hardware = self.config, self.hardware
        parallel = hardware.parallel(self.objective)
        steps_per_epoch = math.ceil(len(self.examples) / config.batch_size)
        steps = config.epochs * steps_per_epoch
        with ExitStack() as stack:
            report = None
            if hardware.leads:
                report = stack.enter_context(TrainingReport(folder, steps, state.step))
            for epoch in range(state.epoch + 1, config.epochs + 1):
                sums = torch.zeros((), device=hardware.device)
                mean: dict[str, float] = {}
                for step, losses in enumerate(self._epoch(parallel, epoch - 1, steps), 1):
                    values = losses.values()
                    sums = sums + torch.stack(list(values.values()))
                    last = step == steps_per_epoch
                    if last or step % READ_EVERY == 0:
                        mean = dict(zip(values, (hardware.total(sums) / step).tolist(), strict=True))
                    if report:
                        report.step(epoch, mean)
                if report:
                    report.end_epoch(epoch, config.epochs, mean)
                if hardware.leads and (epoch % config.checkpoint_every == 0 or epoch == config.epochs):
                    done = {"epoch": epoch, "step": epoch * steps_per_epoch, "metrics": mean}
                    weights = self.objective.state_dict()
                    save_checkpoint(folder, state.model_copy(update=done), weights, self.optimizer)
        hardware.wait()
        return checkpoint_path(folder, config.epochs)

    def _epoch(self, parallel: nn.Module, epoch: int, steps: int) -> Iterator[Losses]:
        config, hardware = self.config, self.hardware
        seed = config.seed * 1_000_003 + epoch
        draw = torch.default_generator if hardware.processes == 1 else torch.Generator()
        # What a process draws for its examples alone, such as dropout, differs from process to process.
        torch.manual_seed(seed + 7_919 * hardware.rank)
        draw.manual_seed(seed)
        share = Share(hardware.rank, hardware.processes, draw)
        self.objective.train()
        self.examples.set_epoch(epoch)
        batches = self.examples.batches(
            batch_size=config.batch_size, seed=config.seed + epoch, workers=hardware.workers, draw=draw
        )
        for index, batch in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(epoch * len(batches) + index, steps, config)
            with hardware.autocast():
                losses: Losses = parallel(batch.to(hardware.device), share)
            self.optimizer.zero_grad(set_to_none=True)
            # Shares of a loss add up to it, and gradients are averaged over processes.
            (losses.total * hardware.processes).backward()
            nn.utils.clip_grad_norm_(self.objective.parameters(), config.gradient_clip)
            self.optimizer.step()
            yield losses
