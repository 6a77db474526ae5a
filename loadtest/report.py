"""The JSON files: everything that is needed to understand a number."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.machine import Machine, versions
from loadtest.measures import Measured
from loadtest.plan import LoadPlan
from loadtest.verdict import Check


def describe(plan: LoadPlan, server: Mapping[str, Any]) -> dict[str, Any]:
    """What every report begins with."""
    return {
        "machine": asdict(Machine.here()),
        "versions": versions(),
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


def load_report(
    plan: LoadPlan, server: Mapping[str, Any], measured: Measured, checks: Sequence[Check]
) -> dict[str, Any]:
    """Of `unipinrec loadtest`."""
    return {
        **describe(plan, server),
        "stages": [asdict(stage) for stage in plan.stages],
        "warm_up_s": plan.warm_up_s,
        **asdict(measured),
        **judged(checks),
    }


def judged(checks: Sequence[Check]) -> dict[str, Any]:
    """Thresholds and verdict."""
    return {
        "thresholds": [asdict(check) | {"kept": check.kept} for check in checks],
        "verdict": "pass" if all(check.kept for check in checks) else "fail",
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write it; numbers JSON does not have become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_finite(report), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
