"""What needs nothing but the manifest and the folder: names, sizes, vocabularies, defaults.

Shapes: A actions.
"""

from pathlib import Path

from ensemble.bundle_check.refusal import refuse, require_equal
from unipinrec.bundle import (
    CATALOGUE,
    FILES,
    INDEX,
    ITEMS,
    MANIFEST,
    POLICY,
    SECOND_RANKERS,
    UNIFIED,
    WEIGHTS,
    BundleError,
    Manifest,
    read_manifest,
)
from unipinrec.data.limits import MOST_ATTRIBUTES
from unipinrec.models.common.item_graph import EMBEDDER
from unipinrec.models.config import ItemConfig
from unipinrec.models.policy.card import CARD
from unipinrec.models.policy.files import GRAPH
from unipinrec.models.unified.files import ENCODER, RANKING_HEAD, RETRIEVAL_HEAD

FILES_OF = {
    UNIFIED: {EMBEDDER, ENCODER, RETRIEVAL_HEAD, RANKING_HEAD, WEIGHTS},
    POLICY: {GRAPH, CARD},
    **{name: {EMBEDDER, WEIGHTS} for name in SECOND_RANKERS},
}
"""Files of the models that nodes of this repository run; another model may have others."""

SPARE = 64 << 20
"""Bytes that any file may have, whatever the sizes of the catalogue and of the model."""
TITLE_BYTES = 4_096
"""Of one item in the catalogue's file, on average."""
LINK_BYTES = 4_096
"""Of one item in an index beside its vector: links of a graph, lists, offsets."""

LARGEST_SIZES = {
    "layers": 1_024,
    "width": 65_536,
    "heads": 1_024,
    "max_history": 1 << 20,
    "max_candidates": 1 << 16,
    "item_dim": 65_536,
    "action_dim": 65_536,
    "head_hidden": 65_536,
    "feedforward_ratio": 64,
    "num_items": 1 << 31,
    "num_surfaces": 1 << 20,
}
"""Of a unified model: larger ones are a slip, and would have a check or a node work for hours."""


def check_files(folder: Path) -> tuple[Manifest, int]:
    """Check that the folder holds the manifest's files alone, and no larger than its content can make them.

    Returns the manifest and the bytes of all files. Raises `BundleError`.
    """
    manifest = read_manifest(folder)
    if UNIFIED not in manifest.models:
        refuse(MANIFEST, "models", ", ".join(manifest.models) or "empty", f"{UNIFIED}, and others beside it")
    _check_vocabularies(manifest)
    _check_defaults(manifest)
    require_equal(MANIFEST, "files", sorted(manifest.files), sorted(FILES))
    for name, files in FILES_OF.items():
        if name in manifest.models:
            found = manifest.models[name].files.keys()
            if found != files:
                refuse(MANIFEST, f"files of {name}", ", ".join(sorted(found)), ", ".join(sorted(files)))
    _check_folder(folder, manifest)
    return manifest, _check_sizes(manifest)


def _check_vocabularies(manifest: Manifest) -> None:
    config = manifest.model
    for name, most in LARGEST_SIZES.items():
        if getattr(config, name) > most:
            refuse(MANIFEST, f"{name} of {UNIFIED}", getattr(config, name), f"up to {most}")
    for what, names, count in (
        ("actions", manifest.actions, config.num_actions),
        ("surfaces", manifest.surfaces, config.num_surfaces),
    ):
        if len(names) != count or len(set(names)) < len(names) or not all(names):
            refuse(MANIFEST, what, ", ".join(names) or "empty", f"{count} names, each once")
    rankers = [name for name in SECOND_RANKERS if name in manifest.models]
    if len(rankers) > 1:
        refuse(MANIFEST, "second rankers", ", ".join(rankers), "one of them")


def _check_defaults(manifest: Manifest) -> None:
    defaults, config = manifest.defaults, manifest.model
    for name in ("utility_weights", "outcome_weights"):
        weight_A = getattr(defaults, name)
        if len(weight_A) != config.num_actions:
            refuse(MANIFEST, name, list(weight_A), f"{config.num_actions} numbers, one for each action")
    if defaults.num_results > config.max_candidates:
        refuse(MANIFEST, "num_results", defaults.num_results, f"1 to {config.max_candidates}, max_candidates")


def _check_folder(folder: Path, manifest: Manifest) -> None:
    described = dict(manifest.all_files())
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BundleError(f"{name} is a link; allowed: a file of the bundle's own")
        if name not in described and name not in (MANIFEST, *manifest.models):
            raise BundleError(f"{name} is not in {MANIFEST}; allowed: what it describes")
    for name, file in described.items():
        path = folder / name
        if file is None or not path.is_file():
            raise BundleError(f"{name} is missing")
        require_equal(name, "its size in bytes", path.stat().st_size, file.size)


def embedder_bytes(config: ItemConfig) -> int:
    """Return the bytes of an embedder's tables, of ids, hashes and attributes."""
    ids = (config.id_rows or config.num_items) * config.id_dim
    attributes = (config.num_attributes + 1) * config.attribute_dim
    hidden = 2 * config.id_dim + config.item_dim
    joined = config.id_dim + config.attribute_dim + config.content_dim
    return (
        4 * (ids + attributes + 2 * hidden * (joined + config.item_dim))
        + 9 * config.num_items * config.id_hashes
    )


def _check_sizes(manifest: Manifest) -> int:
    """So that no time goes into reading what cannot be right."""
    items, width = manifest.model.num_items, manifest.model.item_dim
    most = {
        INDEX: SPARE + items * (8 * width + LINK_BYTES),
        ITEMS: SPARE + items * (4 * width + 8) + 8 * MOST_ATTRIBUTES * items,
        CATALOGUE: SPARE + items * TITLE_BYTES,
        f"{POLICY}/{CARD}": SPARE,
    }
    for name, model in manifest.models.items():
        weights = model.files[WEIGHTS].size if WEIGHTS in model.files else SPARE
        most |= {f"{name}/{file}": SPARE + 2 * weights for file in model.files if file.endswith(".pt")}
        if EMBEDDER in model.files:
            sizes = ItemConfig.model_validate({key: model.config[key] for key in ItemConfig.model_fields})
            most[f"{name}/{EMBEDDER}"] = SPARE + embedder_bytes(sizes)
    config = manifest.model
    layers = 4 * config.layers * (4 + 2 * config.feedforward_ratio) * config.width**2
    weights = manifest.models[UNIFIED].files[WEIGHTS].size
    if weights < layers:
        refuse(
            f"{UNIFIED}/{WEIGHTS}", "its size in bytes", weights, f"{layers} at least, of the layers alone"
        )
    total = 0
    for name, file in manifest.all_files():
        size = file.size if file else 0
        if size > most.get(name, size):
            refuse(name, "its size in bytes", size, f"up to {most[name]}")
        total += size
    return total
