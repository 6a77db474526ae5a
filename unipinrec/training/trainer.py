"""Trains any model of the registry on its examples."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from unipinrec.config import TrainingConfig
from unipinrec.models.common.objective import Losses, Objective
from unipinrec.models.spec import C, Examples, ModelSpec, T
from unipinrec.training.checkpoint import (
    CheckpointMismatchError,
    CheckpointState,
    latest_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
)


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine decay to zero."""
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
    resume: bool = True,
) -> Path:
    """Train to the last epoch and return the final checkpoint's path.

    A folder that holds a checkpoint of the same configuration is continued from there; the result is the
    same as without the interruption, since every epoch is seeded on its own.

    Raises:
        ValueError: there is no example.
        CheckpointMismatchError: the folder holds a checkpoint of another configuration.
    """
    if len(examples) == 0:
        raise ValueError("the dataset has 0 users with a feedview to train on; allowed: 1 or more")
    wanted = CheckpointState(
        spec=spec.name,
        epoch=0,
        step=0,
        model=model_config,
        training=config,
        dataset=examples.interactions.info.sha256,
    )
    checkpoint = latest_checkpoint(folder) if resume else None
    done = load_state(checkpoint) if checkpoint else wanted
    if done.model_copy(update={"epoch": 0, "step": 0, "metrics": {}}) != wanted:
        raise CheckpointMismatchError(
            f"{checkpoint} is of another configuration or dataset; use another folder or remove it"
        )
    torch.manual_seed(config.seed)
    objective = spec.objective(spec.make(model_config), config, examples)
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    if checkpoint:
        objective.load_state_dict(load_weights(checkpoint))
        load_optimizer(checkpoint, optimizer)
    if checkpoint and done.epoch == config.epochs:
        return checkpoint
    return _run(objective, optimizer, examples, done, folder)


def _run(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    state: CheckpointState,
    folder: Path,
) -> Path:
    config = state.training
    steps_per_epoch = math.ceil(len(examples) / config.batch_size)
    steps = config.epochs * steps_per_epoch
    checkpoint = folder
    with SummaryWriter(str(folder / "tensorboard")) as writer, _progress() as bar:
        task = bar.add_task("training", total=steps, completed=state.step, losses="")
        for epoch in range(state.epoch, config.epochs):
            sums: dict[str, Tensor] = {}
            for step, losses in enumerate(_epoch(objective, optimizer, examples, epoch, steps, config)):
                sums = {name: value + sums.get(name, 0.0) for name, value in losses.values().items()}
                mean = {name: float(value) / (step + 1) for name, value in sums.items()}
                text = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
                bar.update(task, advance=1, losses=f"epoch {epoch + 1}: {text}")
            if not bar.console.is_terminal:
                bar.console.print(f"{text} ({epoch + 1} of {config.epochs} epochs)", soft_wrap=True)
            for name, value in mean.items():
                writer.add_scalar(f"loss/{name}", value, epoch + 1)
            if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
                state = state.model_copy(
                    update={"epoch": epoch + 1, "step": (epoch + 1) * steps_per_epoch, "metrics": mean}
                )
                checkpoint = save_checkpoint(folder, state, objective.state_dict(), optimizer)
    return checkpoint


def _epoch(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    epoch: int,
    steps: int,
    config: TrainingConfig,
) -> Iterator[Losses]:
    torch.manual_seed(config.seed * 1_000_003 + epoch)
    objective.train()
    examples.set_epoch(epoch)
    batches = examples.batches(batch_size=config.batch_size, seed=config.seed + epoch)
    for index, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch * len(batches) + index, steps, config)
        losses: Losses = objective(batch)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), config.gradient_clip)
        optimizer.step()
        yield losses


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
