"""The machine a report comes from, and the versions of what ran on it."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("grpcio", "locust", "numpy", "tritonclient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where load was generated, which is also where an embedded server ran."""

    processor: str
    cores: int
    """That this process may use."""
    memory_gib: float
    system: str

    @classmethod
    def here(cls) -> "Machine":
        """This one."""
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            processor=models[0] if models else platform.processor() or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(pages / 2**30, 1),
            system=platform.platform(),
        )


def versions() -> dict[str, Any]:
    """Of Python and of the packages that generate load."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
