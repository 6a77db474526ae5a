"""What the compose file promises about a container, beside what the kernel says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from containers.compose import Service
from ensemble.settings import SHARED_MEMORY

USER = "10001:10001"
"""Whom our images run as."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Promise:
    """One line of the comparison."""

    what: str
    wanted: Any
    found: Any
    """None where this host does not enforce it."""

    @property
    def kept(self) -> bool:
        """Whether it holds, or this host enforces no such limit."""
        return self.found == self.wanted or self.found is None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.what}: {self.wanted} wanted; this host does not enforce it"
        return f"{self.what}: {self.found}" + ("" if self.kept else f"; wanted: {self.wanted}")


def promises(service: Service, probed: Mapping[str, Any]) -> list[Promise]:
    """What `service` asks for, beside what `containers/probe.py` printed."""
    wanted = {
        "user": USER,
        "capabilities": 0,
        "no_new_privileges": True,
        "memory": service.memory,
        "cpus": service.cpus,
    }
    mounts = probed["mounts"]
    sizes = service.temporary_files | {str(SHARED_MEMORY): service.shared_memory}
    return [
        *(Promise(what=what, wanted=value, found=probed[what]) for what, value in wanted.items()),
        *(
            Promise(what=f"{path} read-only", wanted=True, found=mounts[path]["read_only"])
            for path in ("/", *service.read_only_folders)
        ),
        *(
            Promise(what=f"bytes of {path}", wanted=value, found=mounts[path]["bytes"])
            for path, value in sizes.items()
        ),
    ]
