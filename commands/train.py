"""`unipinrec train`: a dataset to a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.errors import one_line_errors
from unipinrec.config import TrainingConfig
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.models.config import PRESETS, CatalogueConfig, sized, with_vectors
from unipinrec.models.registry import MODELS, WITH_TRAINING_COMMAND, find_model
from unipinrec.models.spec import Examples, ModelSpec
from unipinrec.models.unified.config import DEMO_TRAINING
from unipinrec.training.checkpoint import (
    STATE,
    CheckpointMismatchError,
    latest_checkpoint,
    load_item_vectors,
)
from unipinrec.training.hardware import Hardware
from unipinrec.training.trainer import train

HERE = tuple(name for name in MODELS if name not in WITH_TRAINING_COMMAND)


def train_command(
    dataset: Annotated[Path, typer.Option(help="Folder of a prepared dataset.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard logs.")],
    model: Annotated[str, typer.Option(help=f"Model: {', '.join(HERE)}.")] = "unified",
    size: Annotated[str, typer.Option("--preset", help=f"Model size: {', '.join(PRESETS)}.")] = "demo",
    epochs: Annotated[
        int | None,
        typer.Option(help=f"Passes over the users; default: {DEMO_TRAINING.epochs}, or the model's."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Users or requests in one step, those of all processes together; "
            f"default: {DEMO_TRAINING.batch_size}, or the model's."
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help=f"Peak learning rate; default: {DEMO_TRAINING.learning_rate}, or the model's."),
    ] = None,
    second_step_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the unified model: weight of the loss of a second query embedding, for bundles with "
            "--retrieval-steps 2; 0.5 does well. Default: 0, not trained."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DEMO_TRAINING.seed,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="Of second rankers: checkpoint of a trained model whose item vectors they read and search "
            "by, or the folder of its training, whose latest one counts."
        ),
    ] = None,
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
        training = _training(
            spec,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            second_step_weight=second_step_weight,
        )
        hardware = Hardware.choose(device, precision, workers)
        interactions = InteractionDataset.load(dataset)
        config, examples = _examples(spec, size, interactions, seed, vectors)
        with hardware.joined():
            checkpoint = train(spec, examples, config, training, out, hardware=hardware)
    if hardware.leads:
        typer.echo(f"checkpoint {checkpoint}")


def _training(spec: ModelSpec[Any, Any, Any], seed: int, **given: float | None) -> TrainingConfig:
    """Return what was given, else the model's defaults, or the demo's if it has no number of epochs."""
    known = [name for name in given if name in spec.training.model_fields]
    names = known if spec.training.model_fields["epochs"].is_required() else []
    fields: dict[str, float] = {name: getattr(DEMO_TRAINING, name) for name in names}
    fields |= {name: value for name, value in given.items() if value is not None}
    training: TrainingConfig = spec.training(seed=seed, **fields)
    return training


def _examples(
    spec: ModelSpec[Any, Any, Any],
    size: str,
    interactions: InteractionDataset,
    seed: int,
    vectors: Path | None,
) -> tuple[CatalogueConfig, Examples]:
    fields = interactions.catalogue_fields
    if spec.examples is None and spec.examples_by_vectors is None:
        raise ValueError(f"model is {spec.name}, which `unipinrec {spec.name} train` trains")
    if vectors is None:
        if spec.examples is None:
            raise ValueError(f"vectors is missing; model {spec.name} needs a checkpoint with item vectors")
        config = sized(spec.config, size, fields)
        return config, spec.examples(interactions, config, seed)
    if spec.examples_by_vectors is None:
        raise ValueError(f"vectors is {vectors}; model {spec.name} takes none")
    vector_VE = load_item_vectors(_checkpoint(vectors), interactions)
    config = sized(spec.config, size, with_vectors(spec.config, fields, vector_VE.size(1)))
    return config, spec.examples_by_vectors(interactions, config, seed, vector_VE)


def _checkpoint(vectors: Path) -> Path:
    """Return a checkpoint that is given itself, or else the latest of a training folder."""
    if (vectors / STATE).is_file():
        return vectors
    found = latest_checkpoint(vectors)
    if found is None:
        raise FileNotFoundError(f"vectors is {vectors}, which holds no checkpoint; run `unipinrec train`")
    return found
