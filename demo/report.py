"""What the tour measured, `build/demo/report.json`."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from unipinrec.evaluation.leave_one_out import Quality


class Report(BaseModel):
    """What the stages have found, filled in one by one."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    machine: dict[str, Any] = Field(default_factory=lambda: describe_machine())
    started: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    stage_seconds: dict[str, float] = {}
    """Wall-clock seconds of each stage."""
    bundle_id: str = ""
    training: dict[str, float] = {}
    """Losses of the last epoch."""
    quality: Quality = {}
    """Held-out quality over the full catalogue, by recommender and metric."""
    kv_source: dict[str, int] = {}
    """Answers by where ranking took the history's keys and values from."""
    request_ms: dict[str, float] = {}
    """Median latency of a single-user request by protocol, one request at a time."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        began = time.perf_counter()
        yield
        self.stage_seconds[name] = round(time.perf_counter() - began, 2)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2))


def describe_machine() -> dict[str, Any]:
    """Return where the numbers come from."""
    models = (
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    return {
        "processor": next(models, platform.machine()).rpartition(": ")[2],
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "precision": "float32",
    }
