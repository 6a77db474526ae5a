"""A bundle: one immutable, versioned folder with everything a server loads."""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from unipinrec.config import Config, first_fault
from unipinrec.models.config import CatalogueConfig
from unipinrec.models.unified.config import UnifiedConfig

FORMAT_VERSION = 8
MANIFEST = "manifest.json"

UNIFIED = "unified"
"""The model that retrieves and ranks."""

POLICY = "policy"
"""The model that chooses utility weights; a bundle may do without."""

SECOND_RANKERS = ("transact", "transact-v2")
"""The models that rank once more what the unified model ranked; a bundle has one of them at most."""

WEIGHTS = "weights.safetensors"
"""In each model's folder, beside its graphs: what they hold, for executors without TorchScript."""

INDEX = "items.faiss"
ITEMS = "items.safetensors"
CATALOGUE = "catalogue.json"
FILES = (INDEX, ITEMS, CATALOGUE)
"""Files of the bundle as a whole; those of a model lie in a folder of its name."""

IndexKind = Literal["flat", "hnsw", "ivf_hnsw", "sq8"]
INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
INDEX_TUNED_FOR = 100
"""Items for which the search parameters in the index file are meant; a search for more raises them."""


LARGEST_MANIFEST = 4 << 20
"""Bytes; one of many actions and models has some thousands."""

LARGEST_WEIGHT = 1e30
"""Of an action: so that no score, a sum of weights times probabilities, is beyond a float32."""

MOST_CANDIDATES = 65_536
MOST_OVER_FETCH = 1_000

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""Of a file or a model's folder: one part of a path, which leads nowhere else."""

Weight = Annotated[FiniteFloat, Field(ge=0.0, le=LARGEST_WEIGHT)]


class BundleError(Exception):
    """A bundle that must not be served: missing, partial, altered or of another format."""


class BundleFile(Config):
    """How one file of the bundle must look."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class ServingDefaults(Config):
    """What a request gets that does not say otherwise."""

    num_results: int = Field(default=50, ge=1, le=MOST_CANDIDATES)
    over_fetch: int = Field(default=2, ge=1, le=MOST_OVER_FETCH)
    """Candidates ranked for every result asked for, up to `max_candidates` (UniPinRec §1.8: about 2 to 3)."""
    utility_weights: tuple[Weight, ...]
    """Weight of each action's probability in the score."""
    outcome_weights: tuple[Weight, ...]
    """Share of the retrieval budget for each action; all 0 asks for no action in particular."""
    retrieval_steps: int = Field(default=1, ge=1, le=16)
    """Autoregressive steps, each of which feeds the immediate query embedding back through the trunk."""
    merge_cosine: float = Field(default=0.98, gt=0.0, le=1.0)
    """Query embeddings more similar than this are merged; 1 keeps all. PinRec does not give its value."""


C = TypeVar("C", bound=CatalogueConfig)


class BundleModel(Config):
    """One model of a bundle."""

    files: dict[FileName, BundleFile]
    """What lies in the model's folder, by name."""
    config: dict[str, Any]
    """Fields of the model's own configuration."""
    training_metrics: dict[str, float]
    """Losses of the last epoch, by name."""


class Manifest(Config):
    """The description of a bundle, `manifest.json`."""

    format_version: int
    bundle_id: str
    created: datetime
    dataset: str
    actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    history_impressions: bool
    """Whether the unified model was trained on histories that hold impressions, which are events without any
    action. If not, serving keeps them from it."""
    content_dim: int
    """Width of the content vectors of the dataset's items; 0 where they have none."""
    models: dict[FileName, BundleModel]
    """By name."""
    defaults: ServingDefaults
    index: IndexKind
    """How the item index searches."""
    files: dict[str, BundleFile]
    """`FILES`, by name."""
    torch_version: str
    git_commit: str

    @model_validator(mode="after")
    def _check_unified(self) -> "Manifest":
        if UNIFIED in self.models:
            try:
                self.config_of(UNIFIED, UnifiedConfig)
            except ValidationError as error:
                raise ValueError(f"{UNIFIED}: {first_fault(error)}") from error
        return self

    @cached_property
    def model(self) -> UnifiedConfig:
        """Return the configuration of the unified model, which must be there."""
        return self.config_of(UNIFIED, UnifiedConfig)

    @property
    def second_ranker(self) -> str | None:
        """Return the name of the second ranker; None where there is none."""
        return next((name for name in SECOND_RANKERS if name in self.models), None)

    def config_of(self, name: str, kind: type[C]) -> C:
        """Return the configuration of one of the models.

        Raises `BundleError` if it is not there, and `ValidationError` if its fields are not those of `kind`.
        """
        if name not in self.models:
            raise BundleError(
                f"bundle {self.bundle_id} holds no model {name}; it has {', '.join(self.models)}"
            )
        return kind.model_validate(self.models[name].config)

    def all_files(self) -> Iterator[tuple[str, BundleFile | None]]:
        """Yield every file that the bundle must hold by its path; None where it is not described."""
        yield from ((name, self.files.get(name)) for name in FILES)
        for model, entry in self.models.items():
            yield from ((f"{model}/{name}", file) for name, file in entry.files.items())


def content_id(manifest: Manifest) -> str:
    """Return the id of a bundle of this content: all that is served counts, when it was made does not."""
    content = manifest.model_dump_json(exclude={"bundle_id", "created", "git_commit"})
    return f"{manifest.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def describe_file(path: Path) -> BundleFile:
    """Return hash and size of a file."""
    with path.open("rb") as stream:
        return BundleFile(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=path.stat().st_size)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle, checked for format.

    Raises `BundleError` if it is missing, unreadable or of another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"bundle {folder} has no {MANIFEST}")
    if path.stat().st_size > LARGEST_MANIFEST:
        raise BundleError(
            f"bundle {folder}: {MANIFEST} has {path.stat().st_size} bytes; allowed: 1 to {LARGEST_MANIFEST}"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.get("format_version") if isinstance(fields, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"bundle {folder}: {MANIFEST}: format_version is {version}; allowed: {FORMAT_VERSION}"
            )
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is unreadable: {first_fault(error)}") from error
    except RecursionError:
        raise BundleError(f"bundle {folder}: {MANIFEST} is unreadable: it is nested too deep") from None
    # A number of thousands of digits is a ValueError of its own.
    except ValueError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is unreadable: {error}") from error


def verify_bundle(folder: Path) -> Manifest:
    """Check every file against the manifest, and return the manifest.

    Raises `BundleError` if the manifest was altered, or a file is missing, a link, of another size or of
    another hash.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.all_files():
        path = folder / name
        if expected is None or not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing")
        if path.is_symlink() or (path.parent.is_symlink() and path.parent != folder):
            raise BundleError(f"bundle {folder}: {name} is a link; allowed: a file of the bundle's own")
        # First, so that nothing larger than it should be is read.
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(f"bundle {folder}: {name} has {size} bytes; the manifest says {expected.size}")
    for name, expected in manifest.all_files():
        found = describe_file(folder / name)
        if expected is not None and found != expected:
            raise BundleError(
                f"bundle {folder}: {name} has sha256 {found.sha256[:12]}; "
                f"the manifest says {expected.sha256[:12]}"
            )
    if manifest.bundle_id != content_id(manifest):
        raise BundleError(
            f"bundle {folder}: {MANIFEST} was altered: bundle_id is {manifest.bundle_id}; "
            f"its content says {content_id(manifest)}"
        )
    return manifest
