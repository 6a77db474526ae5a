"""`unipinrec export`: a checkpoint to a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from commands.errors import one_line_errors
from export.bundle_writer import DatasetMismatchError, NotServedError, write_bundle
from export.check import ExportMismatchError
from export.item_index import AUTO, CHOICES, IndexRecallError, UnknownIndexError
from export.policy_card import PolicyCardError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.training.checkpoint import CheckpointMismatchError, latest_checkpoint


def export_command(
    training: Annotated[
        list[Path],
        typer.Option(help="Folder that `unipinrec train` wrote. Again for a further model of the bundle."),
    ],
    dataset: Annotated[Path, typer.Option(help="Folder of the prepared dataset it was trained on.")],
    policy_card: Annotated[
        Path | None,
        typer.Option(help="Card of the policy among the trainings, from `unipinrec policy sweep`."),
    ] = None,
    bundles: Annotated[
        Path, typer.Option(help="Folder of bundles; `current` will point at this one.")
    ] = Path("build/bundles"),
    retrieval_steps: Annotated[
        int, typer.Option(min=1, max=16, help="Autoregressive steps; each makes its own query embeddings.")
    ] = 1,
    merge_cosine: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Merge query embeddings more similar than this; 1: none.")
    ] = 0.98,
    index: Annotated[
        str, typer.Option(help=f"Item index: {', '.join(CHOICES)}, which goes by the size of the catalogue.")
    ] = AUTO,
) -> None:
    """Export graphs (each compared with eager PyTorch), item index and vocabularies."""
    with one_line_errors(
        PreparedDatasetError,
        ExportMismatchError,
        DatasetMismatchError,
        NotServedError,
        PolicyCardError,
        CheckpointMismatchError,
        UnknownIndexError,
        IndexRecallError,
    ):
        checkpoint, *beside = (_checkpoint(folder) for folder in training)
        write_bundle(
            checkpoint,
            InteractionDataset.load(dataset),
            bundles,
            beside=beside,
            policy_card=policy_card,
            retrieval_steps=retrieval_steps,
            merge_cosine=merge_cosine,
            index=index,
            report=typer.echo,
        )


def _checkpoint(folder: Path) -> Path:
    found = latest_checkpoint(folder)
    if found is None:
        raise FileNotFoundError(f"--training is {folder}, which holds no checkpoint; run `unipinrec train`")
    return found
