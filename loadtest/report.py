"""The JSON files: what was measured, where, and whether it kept its limits."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from loadtest.plan import LoadPlan

PACKAGES = ("grpcio", "locust", "numpy", "tritonclient")


@dataclass(frozen=True, slots=True)
class Check:
    """One limit that a run has to keep."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        """Whether the value is at most the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}{self.unit}; allowed: at most {self.limit:.4g}{self.unit}"


def broken(checks: Sequence[Check]) -> list[str]:
    """Return a line for each limit that was not kept."""
    return [str(check) for check in checks if not check.kept]


def machine() -> dict[str, Any]:
    """Return where load was generated, which is also where an embedded server ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


def describe(plan: LoadPlan, server: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every report begins with."""
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "server": dict(server),
        "protocol": plan.protocol.value,
        "model": plan.model,
        "arrivals": plan.arrivals.value,
        "latency_from": "the intended start" if plan.arrivals != "closed" else "the actual start",
        "mix": asdict(plan.mix),
        "seed": plan.seed,
        "workers": plan.workers,
        "num_results": plan.num_results,
    }


def judged(checks: Sequence[Check]) -> dict[str, Any]:
    """Return thresholds and verdict."""
    return {
        "thresholds": [asdict(check) | {"kept": check.kept} for check in checks],
        "verdict": "fail" if broken(checks) else "pass",
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Replace `path` in one step; numbers JSON does not have become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_finite(report), indent=1) + "\n", encoding="utf-8")
    partial.rename(path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
