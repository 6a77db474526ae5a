"""One training stage for retrieval and ranking together (UniPinRec §1.5)."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from unipinrec.config import ModelConfig, TrainingConfig
from unipinrec.data.blended import BlendedDataset, loader
from unipinrec.models.unified import UnifiedRecommender
from unipinrec.models.unified.catalogue import Catalogue
from unipinrec.models.unified.objective import LOSS_NAMES, Losses, Objective
from unipinrec.training.checkpoint import (
    CheckpointState,
    latest_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
)


class CheckpointMismatchError(Exception):
    """A training folder holds a checkpoint of another configuration."""


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine decay to zero."""
    warmup = max(1, round(config.warmup_fraction * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    dataset: BlendedDataset,
    model_config: ModelConfig,
    config: TrainingConfig,
    folder: Path,
    resume: bool = True,
    make_model: Callable[[ModelConfig], UnifiedRecommender] = UnifiedRecommender,
) -> Path:
    """Train to the last epoch and return the final checkpoint's path.

    A folder that holds a checkpoint of the same configuration is continued from there; the result is the
    same as without the interruption, since every epoch is seeded on its own.

    Raises:
        ValueError: the dataset has no example.
        CheckpointMismatchError: the folder holds a checkpoint of another configuration.
    """
    if len(dataset) == 0:
        raise ValueError("the dataset has 0 users with a feedview to train on; allowed: 1 or more")
    wanted = CheckpointState(
        epoch=0, step=0, model=model_config, training=config, dataset=dataset.interactions.info.sha256
    )
    checkpoint = latest_checkpoint(folder) if resume else None
    done = load_state(checkpoint) if checkpoint else wanted
    if (done.model, done.training, done.dataset) != (wanted.model, wanted.training, wanted.dataset):
        raise CheckpointMismatchError(
            f"{checkpoint} is of another configuration or dataset; use another folder or remove it"
        )
    torch.manual_seed(config.seed)
    model = make_model(model_config)
    item_count_V = torch.from_numpy(dataset.item_counts())
    model.embedder.describe(Catalogue.of_dataset(dataset.interactions, model.config, item_count_V))
    objective = Objective(model, config, dataset.interactions.positive_mask)
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    if checkpoint:
        objective.load_state_dict(load_weights(checkpoint))
        load_optimizer(checkpoint, optimizer)
    if checkpoint and done.epoch == config.epochs:
        return checkpoint
    return _run(objective, optimizer, dataset, done, folder)


def _run(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    dataset: BlendedDataset,
    state: CheckpointState,
    folder: Path,
) -> Path:
    config = state.training
    steps_per_epoch = math.ceil(len(dataset) / config.batch_size)
    steps = config.epochs * steps_per_epoch
    checkpoint = folder
    with SummaryWriter(str(folder / "tensorboard")) as writer, _progress() as bar:
        task = bar.add_task("training", total=steps, completed=state.step, losses="")
        for epoch in range(state.epoch, config.epochs):
            sums = torch.zeros(len(LOSS_NAMES))
            for step, losses in enumerate(_epoch(objective, optimizer, dataset, epoch, steps, config)):
                sums += losses.values()
                mean = dict(zip(LOSS_NAMES, (sums / (step + 1)).tolist(), strict=True))
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
    dataset: BlendedDataset,
    epoch: int,
    steps: int,
    config: TrainingConfig,
) -> Iterator[Losses]:
    torch.manual_seed(config.seed * 1_000_003 + epoch)
    objective.train()
    dataset.set_epoch(epoch)
    batches = loader(dataset, batch_size=config.batch_size, seed=config.seed + epoch)
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
