"""`unipinrec train`: a dataset to a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from commands.errors import one_line_errors
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.models.config import PRESETS, sized
from unipinrec.models.registry import MODELS, WITH_TRAINING_COMMAND, find_model
from unipinrec.models.unified.config import DEMO_TRAINING
from unipinrec.training.checkpoint import CheckpointMismatchError
from unipinrec.training.hardware import Hardware
from unipinrec.training.trainer import train

HERE = tuple(name for name in MODELS if name not in WITH_TRAINING_COMMAND)


def train_command(
    dataset: Annotated[Path, typer.Option(help="Folder of a prepared dataset.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard logs.")],
    model: Annotated[str, typer.Option(help=f"Model: {', '.join(HERE)}.")] = "unified",
    size: Annotated[str, typer.Option("--preset", help=f"Model size: {', '.join(PRESETS)}.")] = "demo",
    epochs: Annotated[int, typer.Option(help="Passes over the users.")] = DEMO_TRAINING.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Users in one step, those of all processes together.")
    ] = DEMO_TRAINING.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = DEMO_TRAINING.learning_rate,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DEMO_TRAINING.seed,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N; default: a GPU if there is one.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 for matrix products; weights and losses stay in float32.")
    ] = "float32",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that load examples; 0: the training process does.")
    ] = 0,
) -> None:
    """Train a model; a run that was stopped goes on from its last checkpoint.

    Started by torchrun, several processes share every step.
    """
    with one_line_errors(ValueError, PreparedDatasetError, CheckpointMismatchError):
        spec = find_model(model)
        if spec.examples is None:
            raise ValueError(f"model is {model}, which `unipinrec {model} train` trains")
        training = spec.training(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
        hardware = Hardware.choose(device, precision, workers)
        interactions = InteractionDataset.load(dataset)
        config = sized(spec.config, size, interactions.catalogue_fields)
        examples = spec.examples(interactions, config, seed)
        with hardware.joined():
            checkpoint = train(spec, examples, config, training, out, hardware=hardware)
    if hardware.leads:
        typer.echo(f"checkpoint {checkpoint}")
