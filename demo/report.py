"""What the tour measured, `build/demo/report.json`."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from unipinrec.evaluation.leave_one_out import Quality


@dataclass(slots=True)
class Report:
    """Filled in stage by stage."""

    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds of each stage."""
    bundle_id: str = ""
    training: dict[str, float] = field(default_factory=dict)
    """Losses of the last epoch."""
    quality: Quality = field(default_factory=dict)
    """Held-out quality over the full catalogue, by recommender and metric."""
    kv_source: dict[str, int] = field(default_factory=dict)
    """Answers by where ranking took the history's keys and values from."""
    request_ms: dict[str, float] = field(default_factory=dict)
    """Median latency of one single-user request by protocol, one request at a time."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        began = time.perf_counter()
        yield
        self.stage_seconds[name] = round(time.perf_counter() - began, 2)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TypeAdapter(dict[str, Any]).dump_json(asdict(self), indent=2))


def describe_machine() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "precision": "float32",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
