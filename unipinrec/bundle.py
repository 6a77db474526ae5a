"""A bundle: one immutable, versioned folder with everything a server loads."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from unipinrec.config import Config, ModelConfig

FORMAT_VERSION = 4
MANIFEST = "manifest.json"

ENCODER = "encoder.pt"
RETRIEVAL_HEAD = "retrieval_head.pt"
RANKING_HEAD = "ranking_head.pt"
WEIGHTS = "weights.safetensors"
"""What the graphs hold, by the names of `UnifiedRecommender`; the embedder, which serving does not run, is
left out."""

INDEX = "items.faiss"
ITEMS = "items.safetensors"
CATALOGUE = "catalogue.json"
FILES = (ENCODER, RETRIEVAL_HEAD, RANKING_HEAD, WEIGHTS, INDEX, ITEMS, CATALOGUE)

IndexKind = Literal["flat", "hnsw", "ivf_hnsw", "sq8"]
INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
INDEX_TUNED_FOR = 100
"""Items for which the search parameters in the index file are meant; a search for more raises them."""


class BundleError(Exception):
    """A bundle that must not be served: missing, partial, altered or of another format."""


class BundleFile(Config):
    """How one file of the bundle must look."""

    sha256: str
    size: int


class ServingDefaults(Config):
    """What a request gets that does not say otherwise."""

    num_results: int = Field(default=50, ge=1)
    over_fetch: int = Field(default=2, ge=1)
    """Candidates ranked for every result asked for, up to `max_candidates` (UniPinRec §1.8: about 2 to 3)."""
    utility_weights: tuple[float, ...]
    """Weight of each action's probability in the score."""
    outcome_weights: tuple[float, ...]
    """Share of the retrieval budget for each action; all 0 asks for no action in particular."""
    retrieval_steps: int = Field(default=1, ge=1, le=16)
    """Autoregressive steps, each of which feeds the immediate query embedding back through the trunk."""
    merge_cosine: float = Field(default=0.98, gt=0.0, le=1.0)
    """Query embeddings more similar than this are merged; 1 keeps all. PinRec does not give its value."""


class Manifest(Config):
    """The description of a bundle, `manifest.json`."""

    format_version: int
    bundle_id: str
    created: datetime
    dataset: str
    actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    model: ModelConfig
    defaults: ServingDefaults
    index: IndexKind
    """How the item index searches."""
    files: dict[str, BundleFile]
    torch_version: str
    git_commit: str
    training_metrics: dict[str, float]


def content_id(manifest: Manifest) -> str:
    """The id of a bundle of this content: all that is served counts, when it was made does not."""
    content = manifest.model_dump_json(exclude={"bundle_id", "created", "git_commit"})
    return f"{manifest.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def describe_file(path: Path) -> BundleFile:
    """Hash and size of a file."""
    with path.open("rb") as stream:
        return BundleFile(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=path.stat().st_size)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, checked for format.

    Raises:
        BundleError: it is missing, unreadable or of another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"bundle {folder} has no {MANIFEST}")
    try:
        fields = json.loads(path.read_text())
        version = fields.get("format_version") if isinstance(fields, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(f"bundle {folder}: format_version is {version}; allowed: {FORMAT_VERSION}")
        return Manifest.model_validate(fields)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is unreadable: {error}") from error


def verify_bundle(folder: Path) -> Manifest:
    """Check every file against the manifest, and return it.

    Raises:
        BundleError: the manifest was altered, or a file is missing, of another size or of another hash.
    """
    manifest = read_manifest(folder)
    for name in FILES:
        expected = manifest.files.get(name)
        path = folder / name
        if expected is None or not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing")
        found = describe_file(path)
        if found != expected:
            raise BundleError(
                f"bundle {folder}: {name} has sha256 {found.sha256[:12]} and {found.size} bytes; "
                f"the manifest says {expected.sha256[:12]} and {expected.size}"
            )
    if manifest.bundle_id != content_id(manifest):
        raise BundleError(
            f"bundle {folder}: {MANIFEST} was altered: bundle_id is {manifest.bundle_id}; "
            f"its content says {content_id(manifest)}"
        )
    return manifest
