"""The parts of a bundle as a node uses them, verified before anything is loaded.

Shapes: V items, E item width.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ensemble.arrays import Floats, Int64s
from unipinrec import bundle
from unipinrec.bundle import POLICY, Manifest, verify_bundle
from unipinrec.data.history import rows_of
from unipinrec.models.policy.card import CARD, PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.transact.config import SecondRankerConfig, TransactConfig, TransactV2Config

SECOND_RANKER_CONFIGS: dict[str, type[SecondRankerConfig]] = {
    "transact": TransactConfig,
    "transact-v2": TransactV2Config,
}
"""By `unipinrec.bundle.SECOND_RANKERS`."""


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A verified bundle; each node loads only the parts that it needs."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "LoadedBundle":
        """Follow `current` once, so that a switch in between cannot mix two bundles. Raises `BundleError` if
        the bundle is missing, partial, altered or of another format."""
        folder = folder.resolve()
        return cls(folder, verify_bundle(folder))

    @property
    def id(self) -> str:
        """The bundle's identity, which every answer carries."""
        return self.manifest.bundle_id

    @property
    def model_folder(self) -> Path:
        """The folder of the unified model's graphs and weights."""
        return self.folder / bundle.UNIFIED

    def policy(self) -> tuple[PolicyConfig, PolicyCard] | None:
        """What the bundle's policy chooses among and which operating point it has; None without a policy."""
        if POLICY not in self.manifest.models:
            return None
        card = PolicyCard.model_validate_json((self.folder / POLICY / CARD).read_bytes())
        return self.manifest.config_of(POLICY, PolicyConfig), card

    def second_ranker(self) -> tuple[Path, SecondRankerConfig] | None:
        """The folder of the second ranker and its configuration; None without one."""
        name = self.manifest.second_ranker
        if name is None:
            return None
        return self.folder / name, self.manifest.config_of(name, SECOND_RANKER_CONFIGS[name])

    def vocabulary(self) -> "Vocabulary":
        """The external ids of all items, in memory of the calling process."""
        with safe_open(self.folder / bundle.ITEMS, framework="np") as items:
            return Vocabulary(items.get_tensor("item_id_V"))

    def attribute_ids(self) -> Int64s:
        """The external ids of the attributes that items have, ascending."""
        with safe_open(self.folder / bundle.ITEMS, framework="np") as items:
            attribute_id_A: Int64s = items.get_tensor("attribute_id_A")
        return attribute_id_A

    def item_vectors(self) -> Floats:
        """What the embedder makes of each item [V, E], mapped to be read: nodes share one copy, and load what
        they read."""
        path = self.folder / bundle.ITEMS
        with path.open("rb") as file:
            # A safetensors file: the length of a header in JSON, the header, the tensors.
            header = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(header))["vector_VE"]
        begin = 8 + header + entry["data_offsets"][0]
        return np.asarray(np.memmap(path, np.float32, "r", begin, tuple(entry["shape"])))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """External item ids, ascending."""

    item_id_V: Int64s

    def rows_of(self, item_id: Int64s) -> Int64s:
        """Item rows of external ids; `UNKNOWN_ROW` for unknown ones."""
        return rows_of(self.item_id_V, item_id)

    def ids_of(self, item_row: Int64s) -> Int64s:
        """External ids of item rows."""
        return self.item_id_V[item_row]
