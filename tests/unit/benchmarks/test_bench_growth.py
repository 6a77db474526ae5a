"""The benchmark of growth measures what it says, in small."""

import json
from pathlib import Path

from benchmarks.growth import GrowthReport, measure_growth
from benchmarks.growth_plot import plot


def test_costs_are_measured_and_drawn(tmp_path: Path) -> None:
    told: list[str] = []
    report = measure_growth(most=2, runs=1, tell=told.append)
    assert [cost.size for cost in report.history] == [64, 128]
    slots = [cost.mib["slot"] for cost in report.history]
    # Keys and values of 6 layers, 256 floats each, for every event and BOS.
    assert slots == [6 * 2 * 65 * 256 * 4 / 2**20, 6 * 2 * 129 * 256 * 4 / 2**20]
    assert all(cost.ms["last 8 events"] < cost.ms["whole history"] for cost in report.history)
    users = report.cached_users[-1]
    assert users.ms["the same history"] < users.ms["8 more events"]
    assert len(told) == 2 * 5
    report.write(tmp_path / "growth.json")
    assert GrowthReport.model_validate(json.loads((tmp_path / "growth.json").read_text())) == report
    plot(report, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
