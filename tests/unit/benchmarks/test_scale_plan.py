"""docs/scale.md says what the committed results say, by formulas that are computed as they stand there."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.scale_plan import BLOCK, MEASURED, PlanError, filled, plan, read_field, shown, tables
from commands.app import app
from ensemble.settings import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def values() -> dict[str, float]:
    return plan(RESULTS)


def test_the_page_and_the_committed_results_agree(values: dict[str, float]) -> None:
    text = PAGE.read_text()
    assert filled(text, tables(values)) == text, "run: make scale-plan"


def test_the_costs_are_those_of_a_calculation_by_hand(values: dict[str, float]) -> None:
    rows = json.loads((RESULTS / "bench/report.json").read_text())["rows"]
    rate = {
        row["stack"]: row["qps"] for row in rows if row["arrival"] == "closed" and row["concurrency"] == 64
    }
    of_twenty = 2 / rate["unified_cold"] + 19 * 2 / rate["unified_warm"]
    assert values["compute_cores"] == pytest.approx(100_000 * of_twenty / 20 / 0.7)
    # Six layers of width 256 in float32, keys and values, 513 positions, for three million users.
    slot_bytes = 2 * 6 * 256 * 4 * 513
    assert values["slot_tb"] == pytest.approx(3e6 * slot_bytes / 1e12, rel=1e-3)
    # A thousand events take eight pages.
    assert values["stored_tb"] == pytest.approx(500e6 * 8 * 4096 / 1e12)
    (million,) = [
        each["index_bytes"]
        for each in json.loads((RESULTS / "bench/ann.json").read_text())["measured"]
        if (each["kind"], each["items"]) == ("hnsw", 1_000_000)
    ]
    assert values["index_gb"] == pytest.approx(1000 * million / 1e9)
    assert values["changes_share"] == pytest.approx(50_000 / 0.01 / 1e9)


def test_a_result_that_has_changed_changes_the_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for given in MEASURED:
        report = given.source.split(" > ")[0]
        (results / report).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RESULTS / report, results / report)
    page = tmp_path / "scale.md"
    shutil.copyfile(PAGE, page)
    options = ["bench", "scale-plan", "--results", str(results), "--page", str(page)]
    assert CliRunner().invoke(app, options).exit_code == 0
    assert page.read_text() == PAGE.read_text()
    assert (tmp_path / "results/scale.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((results / "bench/growth.json").read_text())
    report["sweeps"]["events of a history"][3]["measured"]["slot, MiB"] *= 2
    (results / "bench/growth.json").write_text(json.dumps(report))
    assert CliRunner().invoke(app, options).exit_code == 0
    assert page.read_text() != PAGE.read_text()
    assert (
        "| `slot_tb` | slots for them, TB | `there * slot_mib * 1048576 / 1e12` | 37.8 |" in page.read_text()
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bench/none.json > a", "report is bench/none.json; there is none in "),
        ("bench/growth.json > sweeps > events", "there is nothing at events"),
        (
            "bench/growth.json > sweeps > events of a history > value=7 > measured",
            "there is nothing at value=7",
        ),
        ("bench/growth.json > sweeps > events of a history > value=512", "its value is no number"),
        ("bench/report.json > quick", "its value is no number"),
    ],
)
def test_a_field_that_is_not_there_is_named(source: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_field(source, RESULTS)


def test_a_table_that_is_missing_from_the_page_is_named(values: dict[str, float], tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(BLOCK.sub("", PAGE.read_text(), count=1))
    result = CliRunner().invoke(app, ["bench", "scale-plan", "--results", str(RESULTS), "--page", str(page)])
    assert result.exit_code == 2
    assert result.stderr.startswith("tables of the page are ['costs', ")
    assert len(tables(values)) == 6


def test_numbers_keep_three_digits_that_count() -> None:
    assert [shown(value) for value in (0.0026342, 1.417, 36.94, 784.13, 500e6)] == [
        "0.00263",
        "1.42",
        "36.9",
        "784",
        "500,000,000",
    ]
