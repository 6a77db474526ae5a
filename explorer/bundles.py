"""What the folder of bundles knows of an answer: names, which query found an item, the policy's card."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from unipinrec_client.catalogue import Catalogue

from unipinrec.bundle import CATALOGUE, POLICY, BundleError, Manifest, read_manifest
from unipinrec.models.policy.card import CARD, PolicyCard

BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
"""One part of a path, which leads nowhere else."""

UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """One bundle, as far as a reader of its answers needs it."""

    manifest: Manifest
    catalogue: Catalogue
    card: PolicyCard | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a bundle's manifest, names and, where it has a policy, its card. Raises `BundleError` or
        `ValueError` if one of them is unreadable."""
        manifest = read_manifest(folder)
        card = folder / POLICY / CARD
        return cls(
            manifest=manifest,
            catalogue=Catalogue.read(folder / CATALOGUE),
            card=PolicyCard.model_validate_json(card.read_text(encoding="utf-8")) if card.is_file() else None,
        )

    def found_by(self, origin: int) -> str:
        """Return RETRIEVED_BY in words: the outcome that the query embedding aimed at, how much later than
        the request, and its step where there are several."""
        offsets, actions = self.manifest.model.time_offsets_s, self.manifest.actions
        step, outcome = divmod(origin // len(offsets), len(actions) + 1)
        offset_s = offsets[origin % len(offsets)]
        parts = [
            actions[outcome] if outcome < len(actions) else "any action",
            f"in {_duration(offset_s)}" if offset_s else "now",
            *([f"step {step + 1}"] if self.manifest.defaults.retrieval_steps > 1 else []),
        ]
        return ", ".join(parts)


class Bundles:
    """The bundles of a folder, by id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = cache(self._read_facts)

    def of(self, bundle_id: str) -> BundleFacts | None:
        """Return what is known of the bundle that made an answer; None if the folder has none of that id."""
        return self._read(bundle_id) if BUNDLE_NAME.fullmatch(bundle_id) else None

    def _read_facts(self, bundle_id: str) -> BundleFacts | None:
        try:
            return BundleFacts.read(self.folder / bundle_id)
        except (BundleError, ValidationError, ValueError, OSError):
            return None


def _duration(seconds: int) -> str:
    name, unit = next((name, unit) for name, unit in UNITS if abs(seconds) >= unit)
    return f"{seconds / unit:.3g} {name}"
