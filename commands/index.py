"""`unipinrec index`: brings a bundle's items to a Milvus server, and takes them away again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.errors import USAGE, fail, one_line_errors
from commands.progress import progress_bar
from ensemble.index.unavailable import IndexUnavailableError
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec.bundle import BundleError

if TYPE_CHECKING:
    from ensemble.index.milvus.collection import Collection

WRITE_TIMEOUT_S = 60.0
"""Of one write, and of loading the collection."""

app = typer.Typer(
    help="Keep a bundle's item index in Milvus, at UNIPINREC_INDEX_URL with the token UNIPINREC_INDEX_TOKEN. "
    "A server with the same settings searches there.",
    no_args_is_help=True,
)

Bundle = Annotated[
    Path | None, typer.Option(help="Folder of the bundle; default: UNIPINREC_BUNDLE, as servers read it.")
]


@app.command("push")
def push(
    bundle: Bundle = None,
    index_type: Annotated[
        str, typer.Option(help="Milvus' kind of index, as FLAT, HNSW, IVF_SQ8 or DISKANN.")
    ] = "AUTOINDEX",
) -> None:
    """Write all items of a bundle to a collection of its own; one that is there is made anew."""
    with one_line_errors(BundleError, IndexUnavailableError, ValueError):
        loaded, collection = _opened(bundle)
        vector_VE = loaded.item_vectors()
        items, width = vector_VE.shape
        collection.drop()
        collection.create(width, index_type)
        with progress_bar() as progress:
            task = progress.add_task("items", total=items)
            for written in collection.fill(vector_VE):
                progress.update(task, completed=written)
        collection.load()
    typer.echo(f"{items:,} items in {collection.name}")


@app.command("drop")
def drop(bundle: Bundle = None) -> None:
    """Remove the collection of a bundle that no server has any more."""
    with one_line_errors(BundleError, IndexUnavailableError, ValueError):
        _, collection = _opened(bundle)
        collection.drop()
    typer.echo(f"{collection.name} is removed")


def _opened(bundle: Path | None) -> tuple[LoadedBundle, "Collection"]:
    # Other commands do without what this imports, and most installations too.
    try:
        from ensemble.index.milvus.collection import Collection
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; pip install -e '.[milvus]' brings it", USAGE)
    settings = ServingSettings() if bundle is None else ServingSettings(bundle=bundle.absolute())
    if settings.index_url is None:
        fail("UNIPINREC_INDEX_URL is not set; it names the Milvus server, as http://127.0.0.1:19530", USAGE)
    loaded = LoadedBundle.open(settings.bundle)
    token = settings.index_token.get_secret_value() if settings.index_token else None
    return loaded, Collection(settings.index_url, token, loaded.id, WRITE_TIMEOUT_S)
