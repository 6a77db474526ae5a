"""`unipinrec train`: a dataset to a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from commands.errors import one_line_errors
from unipinrec.config import DEMO_TRAINING, PRESETS, TrainingConfig, preset
from unipinrec.data.blended import BlendedConfig, BlendedDataset
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.training.trainer import CheckpointMismatchError, train


def train_command(
    dataset: Annotated[Path, typer.Option(help="Folder of a prepared dataset.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard logs.")],
    size: Annotated[str, typer.Option("--preset", help=f"Model size: {', '.join(PRESETS)}.")] = "demo",
    epochs: Annotated[int, typer.Option(help="Passes over the users.")] = DEMO_TRAINING.epochs,
    batch_size: Annotated[int, typer.Option(help="Users in one step.")] = DEMO_TRAINING.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = DEMO_TRAINING.learning_rate,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DEMO_TRAINING.seed,
) -> None:
    """Train both stages of a model; a run that was stopped goes on from its last checkpoint."""
    with one_line_errors(ValueError, PreparedDatasetError, CheckpointMismatchError):
        config = TrainingConfig.model_validate(
            DEMO_TRAINING.model_dump()
            | {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
        )
        interactions = InteractionDataset.load(dataset)
        checkpoint = train_on(interactions, size, config, out)
    typer.echo(f"checkpoint {checkpoint}")


def train_on(interactions: InteractionDataset, size: str, config: TrainingConfig, out: Path) -> Path:
    """Train the preset `size` for the catalogue of a dataset. Returns the last checkpoint."""
    model = preset(size, **interactions.catalogue_fields)
    examples = BlendedDataset(interactions, BlendedConfig(max_history=model.max_history, seed=config.seed))
    return train(examples, model, config, out)
