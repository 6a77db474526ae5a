"""The measurement of items that are added and removed under load, in small: what it must show holds."""

from pathlib import Path

from benchmarks.sweep.items import item_changes


def test_items_change_under_load_without_a_failure_and_are_found(tmp_path: Path) -> None:
    told: list[str] = []
    report = item_changes(tmp_path, 0.05, told.append, sizes="tiny", catalogue=3_000, added=600, removed=100)
    phases = {point.value: point.measured for point in report.sweeps["phase"]}
    assert list(phases) == ["before", "adding", "between", "removing", "after"]
    for measured in phases.values():
        assert (measured["requests failed"], measured["removed items returned"]) == (0, 0)
    assert phases["before"]["added items returned"] == 0
    assert float(phases["after"]["added items returned"]) > 0
    (after,) = report.sweeps["search after all"]
    assert float(after.measured["recall against a fresh index"]) >= 0.99
    assert (after.measured["removed items found"], after.measured["processes ended"]) == (0, 0)
