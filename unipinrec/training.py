"""One training stage for retrieval and ranking together (UniPinRec §1.3 and §1.5).

Shapes: B examples, N events, T = N + 1 positions, K candidates, P positions with a target, X negatives,
A actions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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

from unipinrec.checkpoint import (
    CheckpointState,
    latest_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
)
from unipinrec.config import ModelConfig, TrainingConfig
from unipinrec.data.blended import BlendedBatch, BlendedDataset, loader
from unipinrec.losses import SampledSoftmax, action_loss
from unipinrec.model import UnifiedRecommender


class CheckpointMismatchError(Exception):
    """A training folder holds a checkpoint of another configuration."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step minimises, and its parts."""

    total: Tensor
    retrieval: Tensor
    history_actions: Tensor
    candidate_actions: Tensor

    def values(self) -> Tensor:
        """All of them, in the order of `LOSS_NAMES`, without gradients."""
        return torch.stack([getattr(self, name) for name in LOSS_NAMES]).detach()


LOSS_NAMES = ("total", "retrieval", "history_actions", "candidate_actions")


class Objective(nn.Module):
    """The model with its losses: a batch of blended examples to `Losses`, in one forward pass."""

    def __init__(self, model_config: ModelConfig, config: TrainingConfig, item_count_V: Tensor) -> None:
        super().__init__()
        self.config = config
        self.model = UnifiedRecommender(model_config)
        self.softmax = SampledSoftmax()
        frequency_V = item_count_V.double() / item_count_V.sum()
        drawn_V = config.in_batch_negatives * frequency_V + config.random_negatives / len(item_count_V)
        log_q_V = (drawn_V / (config.in_batch_negatives + config.random_negatives)).log().float()
        self.register_buffer("log_q_V", log_q_V, persistent=False)
        self.log_q_V: Tensor

    def forward(self, batch: BlendedBatch) -> Losses:
        """Masks history actions, encodes once, and takes both losses from that one pass."""
        model = self.model
        real_BN = batch.event_item_BN >= 0
        masked_BN = real_BN & (torch.rand(real_BN.shape) < self.config.action_mask_probability)
        hidden_BTC, past_L2BHTD = model.encode(
            model.embedder(batch.event_item_BN),
            batch.event_actions_BN,
            batch.event_timestamp_BN,
            batch.event_surface_BN,
            masked_BN,
        )
        candidate_logit_BKA = model.score_padded(
            model.embedder(batch.candidate_item_BK),
            batch.feedview_timestamp_B,
            batch.feedview_surface_B,
            past_L2BHTD,
            batch.length_B,
        )
        retrieval = self._retrieval(hidden_BTC, batch)
        history = self._actions(model.ranking_head(hidden_BTC[:, 1:]), batch.event_actions_BN, masked_BN)
        shown_BK = batch.candidate_item_BK >= 0
        candidates = self._actions(candidate_logit_BKA, batch.candidate_actions_BK, shown_BK)
        total = retrieval + self.config.ranking_loss_weight * (history + candidates)
        return Losses(total, retrieval, history, candidates)

    def _retrieval(self, hidden_BTC: Tensor, batch: BlendedBatch) -> Tensor:
        has_target_BT = batch.target_item_BT >= 0
        if not bool(has_target_BT.any()):
            return hidden_BTC.sum() * 0.0
        target_P = batch.target_item_BT[has_target_BT]
        user_P = batch.user_B.unsqueeze(1).expand_as(has_target_BT)[has_target_BT]
        query_PE = self.model.retrieval_head(
            hidden_BTC[has_target_BT],
            batch.target_timestamp_BT[has_target_BT],
            batch.target_surface_BT[has_target_BT],
        )
        drawn = torch.randperm(len(target_P))[: self.config.in_batch_negatives]
        random_X = torch.randint(len(self.log_q_V), (self.config.random_negatives,))
        negative_X = torch.cat([target_P[drawn], random_X])
        negative_user_X = torch.cat([user_P[drawn], torch.full_like(random_X, -1)])
        loss: Tensor = self.softmax(
            query_PE,
            self.model.embedder(target_P),
            target_P,
            self.log_q_V[target_P],
            self.model.embedder(negative_X),
            negative_X,
            self.log_q_V[negative_X],
            user_P.unsqueeze(1) == negative_user_X,
        )
        return loss

    def _actions(self, logit: Tensor, actions: Tensor, counted: Tensor) -> Tensor:
        bit = torch.arange(logit.size(-1))
        return action_loss(logit, (actions.unsqueeze(-1) >> bit) & 1, counted, torch.ones(logit.size(-1)))


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
    torch.manual_seed(config.seed)
    objective = Objective(
        model_config, config, torch.from_numpy(dataset.item_counts().astype(np.float64) + 1.0)
    )
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    done = CheckpointState(epoch=0, step=0, model=model_config, training=config, dataset=dataset.hashes)
    checkpoint = latest_checkpoint(folder) if resume else None
    if checkpoint:
        wanted, done = done, load_state(checkpoint)
        if (done.model, done.training, done.dataset) != (wanted.model, wanted.training, wanted.dataset):
            raise CheckpointMismatchError(
                f"{checkpoint} is of another configuration or dataset; use another folder or remove it"
            )
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
