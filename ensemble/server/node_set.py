"""The nodes that serve one bundle; a server holds two sets of them while a bundle is rolled out."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ensemble.server.selection import Selection
from unipinrec.bundle import Manifest

FIRST, SECOND = 1, 2
"""What tells the two sets apart."""

STANDBY = "-standby"


def standby_name(ensemble: str) -> str:
    """Return the name under which an ensemble runs on the nodes that stand by."""
    return f"{ensemble}{STANDBY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSet:
    """Which nodes serve a bundle, and what Triton calls them."""

    number: int
    """`FIRST` or `SECOND`: the nodes of the first set bear their own names."""
    bundle: Path
    manifest: Manifest | None
    """None for what is no bundle, of which the nodes tell when they load it."""
    selection: Selection
    base: Path
    """The server's runtime folder."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When callers were last turned to it."""

    @property
    def bundle_id(self) -> str:
        """The id of its bundle."""
        return self.manifest.bundle_id if self.manifest else self.bundle.name

    @property
    def runtime_dir(self) -> Path:
        """Where its nodes keep what they share, which fits no other bundle."""
        return self.base / str(self.number)

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes in the server, in the order of the graph."""
        return [self.name_of(node) for node in self.selection.nodes]

    @property
    def other(self) -> int:
        """The number of the set that there is room for."""
        return SECOND if self.number == FIRST else FIRST

    def name_of(self, node: str) -> str:
        """Return what Triton calls a node of this set."""
        return node if self.number == FIRST else f"{node}-{self.number}"
