"""The parts of a bundle as a node uses them, verified before anything is loaded.

Shapes: V items, E item width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ensemble.contract import Floats, Int64s
from unipinrec import bundle
from unipinrec.bundle import Manifest, load_graph, verify_bundle
from unipinrec.data.history import rows_of


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A verified bundle; each node loads only the parts that it needs."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "LoadedBundle":
        """Follow `current` once, so that a switch in between cannot mix two bundles.

        Raises:
            BundleError: the bundle is missing, partial, altered or of another format.
        """
        folder = folder.resolve()
        return cls(folder, verify_bundle(folder))

    @property
    def id(self) -> str:
        """The bundle's identity, which every answer carries."""
        return self.manifest.bundle_id

    def graph(self, name: str) -> Any:
        """An exported graph, ready to call."""
        return load_graph(self.folder / name)

    def vocabulary(self) -> "Vocabulary":
        """Item ids and item vectors, mapped: the nodes share one copy, and load only what they read."""
        items = load_file(self.folder / bundle.ITEMS)
        return Vocabulary(item_id_V=items["item_id_V"].numpy(), vector_VE=items["vector_VE"].numpy())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """External item ids, ascending, beside the embedder's output for each."""

    item_id_V: Int64s
    vector_VE: Floats

    def rows_of(self, item_id: Int64s) -> Int64s:
        """Item rows of external ids; `UNKNOWN_ROW` for unknown ones."""
        return rows_of(self.item_id_V, item_id)

    def ids_of(self, item_row: Int64s) -> Int64s:
        """External ids of item rows."""
        return self.item_id_V[item_row]
