"""What the compose file promises about a container, beside what the kernel says of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from containers.compose import Service, size
from ensemble.settings import SHARED_MEMORY

USER = "10001:10001"
"""Whom our images run as."""


@dataclass(slots=True, frozen=True)
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
    """Return what `service` asks for, beside what `containers/probe.py` printed."""
    mounts, limits = probed["mounts"], service["deploy"]["resources"]["limits"]
    binds = [volume for volume in service["volumes"] if isinstance(volume, dict)]
    read_only = ["/", *(volume["target"] for volume in binds if volume.get("read_only"))]
    sizes = {str(SHARED_MEMORY): size(service["shm_size"])}
    for mount in service["tmpfs"]:
        path, _, choices = mount.partition(":")
        if match := re.search(r"size=(\w+)", choices):
            sizes[path] = size(match[1])
    return [
        Promise("user", USER, probed["user"]),
        Promise("capabilities", 0, probed["capabilities"]),
        Promise("no_new_privileges", True, probed["no_new_privileges"]),
        Promise("memory", size(limits["memory"]), probed["memory"]),
        Promise("cpus", float(limits["cpus"]), probed["cpus"]),
        *(Promise(f"{path} read-only", True, mounts[path]["read_only"]) for path in read_only),
        *(Promise(f"bytes of {path}", wanted, mounts[path]["bytes"]) for path, wanted in sizes.items()),
    ]
