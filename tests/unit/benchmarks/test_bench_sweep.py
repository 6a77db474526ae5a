"""Sweeps measure what they say, in small, and their reports are read as they were written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.sweep.appends import alone
from benchmarks.sweep.graphs import ServedGraphs
from benchmarks.sweep.growth import growth
from benchmarks.sweep.nearest import nearest_events
from benchmarks.sweep.options import _storage
from benchmarks.sweep.precision import kendall_by_user, precision, top_overlap_by_user
from benchmarks.sweep.sweep import Point, Sweep, SweepReport, median_ms, plot, run_sweeps, tables
from commands.app import app
from ensemble.settings import ServingSettings
from ensemble.stores.lmdb_store import LmdbHistoryStore
from export.bundle_writer import DatasetMismatchError
from loadtest.render import plain_console
from loadtest.report import write_report
from tests.conftest import Exported
from unipinrec.bundle import read_manifest
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.training.checkpoint import latest_checkpoint

USERS = 12


def measured(points: tuple[Point, ...], name: str) -> list[float]:
    return [float(point.measured[name]) for point in points]


def test_graphs_made_anew_compute_the_same() -> None:
    scored = []
    for _ in range(2):
        graphs = ServedGraphs(64, lambda graph: graph)
        graphs.encode([graphs.history(64)])
        scored.append(graphs.rank(length=64, candidates=4))
    assert (scored[0] - scored[1]).abs().max() < 1e-6


def test_every_value_is_measured_told_and_shown_once(tmp_path: Path) -> None:
    told: list[str] = []
    sweeps = [
        Sweep(
            "sizes", (1, 2), lambda size: {"cost, ms": size / 2} | ({"peak, MiB": 9.0} if size > 1 else {})
        ),
        Sweep("ways", ("a", "b"), lambda way: {"share": Estimate(0.5, 0.25, ord(way))}),
    ]
    report = run_sweeps("subject", {"preset": "none"}, sweeps, told.append)
    assert measured(report.sweeps["sizes"], "cost, ms") == [0.5, 1.0]
    assert [point.value for point in report.sweeps["ways"]] == ["a", "b"]
    assert told[0] == "sizes 1: cost, ms 0.5"
    assert len(told) == 4
    write_report(tmp_path / "subject.json", report.model_dump(mode="json"))
    assert SweepReport.model_validate(json.loads((tmp_path / "subject.json").read_text())) == report
    plot(report, tmp_path / "subject.png")
    assert (tmp_path / "subject.png").stat().st_size > 5_000
    console = plain_console()
    with console.capture() as shown:
        for made in tables(report):
            console.print(made)
    cells = " ".join(shown.get().replace("│", " ").split())
    assert "cost, ms 0.5 1" in cells
    assert "share 0.5000 (0.2500 to 97.0000) 0.5000 (0.2500 to 98.0000)" in cells


def test_a_median_is_of_the_time_of_a_call() -> None:
    assert median_ms(lambda: None, 0.001) < 0.1
    draw = np.random.default_rng(1)
    assert median_ms(lambda: draw.random(2_000_000), 0.05) > 1


def test_the_search_is_compared_with_pytorch(tmp_path: Path) -> None:
    report = nearest_events(0.01, 1, lambda _: None)
    plot(report, tmp_path / "nearest.png")
    assert (tmp_path / "nearest.png").stat().st_size > 5_000
    (shortest,), points = report.sweeps["events of a history"], report.sweeps["threads"]
    assert shortest.value == 1000
    assert points[0].value == 1
    for point in (shortest, *points):
        shares = ("median, share", "largest, share", "recall, share")
        median, largest, recall = (float(point.measured[name]) for name in shares)
        assert 0 < median <= largest
        assert 0.97 < recall < 1


def test_costs_of_growing_sizes_are_measured(tmp_path: Path) -> None:
    report = growth(0.001, 2, lambda _: None)
    assert [[point.value for point in points] for points in report.sweeps.values()] == [
        [64, 128],
        [32, 64],
        [1, 2],
        [16, 64],
        [1_000, 3_000],
    ]
    history = report.sweeps["events of a history"]
    # Keys and values of 6 layers, 256 floats each, for every event and BOS.
    assert measured(history, "slot, MiB") == [6 * 2 * (events + 1) * 256 * 4 / 2**20 for events in (64, 128)]
    # How long anything takes is the machine's: here a call is measured once.
    times = [*measured(history, "whole history, ms"), *measured(history, "last 8 events, ms")]
    users = report.sweeps["cached users"][-1].measured
    times += [float(users["the same history, ms"]), float(users["8 more events, ms"])]
    assert all(taken > 0 for taken in times)
    plot(report, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_graphs_score_a_cached_history_as_they_do_a_whole_one() -> None:
    graphs = ServedGraphs(64)
    history = [graphs.history(64)]
    graphs.encode(history)
    whole = graphs.rank(1, 64, 10)
    graphs.encode(history, 60)
    assert (graphs.rank(1, 64, 10) - whole).abs().max() < 1e-6
    assert whole.std() > 0.01


def test_coarser_keys_and_values_take_less_memory_and_change_scores_more(exported: Exported) -> None:
    settings = ServingSettings(bundle=exported.bundle, histories=exported.histories, pool_slots=4)
    with LmdbHistoryStore(exported.histories) as store:
        users = store.first_users(USERS)
    measure = _storage(settings, users)
    exact, half, quarter = (measure(precision) for precision in ("float32", "bfloat16", "int8"))
    assert exact["largest difference of a probability"] == 0
    assert exact["overlap of the best 10"] == 1
    for coarse in (half, quarter):
        assert 0 < float(coarse["mean difference of a probability"]) < 0.02
    sizes = [float(found["slot, bytes"]) for found in (exact, half, quarter)]
    assert np.isclose(sizes[0] / sizes[1], 2, atol=0.02)
    assert 3.4 < sizes[0] / sizes[2] < 4


def test_kendalls_tau_counts_pairs() -> None:
    """Of 4 items: the same order, the reverse, one of six pairs swapped, and one tied."""
    first = np.array([4.0, 3.0, 2.0, 1.0])
    second = np.array(
        [[8.0, 6.0, 4.0, 2.0], [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 2.0, 1.0], [3.0, 3.0, 2.0, 1.0]]
    )
    found = kendall_by_user(np.tile(first, (4, 1)), second)
    # Tau b: pairs that agree less those that do not, over the root of the pairs untied in each list.
    assert found.tolist() == pytest.approx([1, -1, (5 - 1) / 6, 5 / (6 * 5) ** 0.5])


def test_overlap_is_the_share_of_the_best_that_both_have() -> None:
    first = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
    second = np.array([[4.0, 5.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 9.0, 2.0, 1.0, 8.0]])
    assert top_overlap_by_user(first, second, 2).tolist() == [1.0, 0.0, 0.5]


def test_precisions_are_compared_over_the_same_users(exported: Exported) -> None:
    checkpoint = latest_checkpoint(exported.bundle.parent.parent / "checkpoints")
    assert checkpoint is not None
    told: list[str] = []
    report = precision(checkpoint, exported.dataset, USERS, told.append)
    assert [report.settings[name] for name in ("users", "retrieved", "epoch")] == [USERS, 127, 1]
    assert report.settings["dataset"] == read_manifest(exported.bundle).dataset
    exact, half, quarter = report.sweeps["precision"]
    assert [exact.value, half.value, quarter.value] == ["float32", "bfloat16", "float8"]
    assert len(told) == 3
    assert len(exact.measured) == 4
    for point in (half, quarter):
        for name, found in exact.measured.items():
            own, less = point.measured[name], point.measured[f"{name}, less float32"]
            assert isinstance(found, Estimate)
            assert isinstance(own, Estimate)
            assert isinstance(less, Estimate)
            assert less.mean == pytest.approx(own.mean - found.mean)
            assert less.low <= less.mean <= less.high
    mean, p99, largest = (
        float(half.measured[name])
        for name in (
            "mean difference of a logit",
            "p99 of the differences of logits",
            "largest difference of a logit",
        )
    )
    assert 0 < mean < p99 < largest
    # 4 bits in place of 8 for two factors of three.
    assert 3 * mean < float(quarter.measured["mean difference of a logit"])
    agreement = [point.measured["kendall"] for point in (quarter, half)]
    assert 0.5 < agreement[0].mean < agreement[1].mean < 1


def test_another_dataset_is_refused(exported: Exported) -> None:
    checkpoint = latest_checkpoint(exported.bundle.parent.parent / "checkpoints")
    assert checkpoint is not None
    info = exported.dataset.info.model_copy(update={"sha256": {"events.parquet": "0"}})
    with pytest.raises(DatasetMismatchError, match="was trained on another dataset than synthetic"):
        precision(checkpoint, replace(exported.dataset, info=info), USERS, print)


def test_a_folder_without_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    arguments = ["bench", "sweep", "precision", "--training", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        f"--training is {tmp_path}, which holds no checkpoint; run `unipinrec train`"
    )
    assert not (tmp_path / "out").exists()


def test_a_store_is_read_and_appended_to_while_its_user_stays_as_long(tmp_path: Path) -> None:
    found = alone(tmp_path, 300, 0.001)
    assert found.keys() == {"read, ms", "append of one, ms", "append of one with an id, ms"}
    assert all(float(ms) > 0 for ms in found.values())
    with LmdbHistoryStore(tmp_path / "alone-300", most_events=300) as store:
        time_N = store.read(b"measured")["timestamp"]
    assert len(time_N) == 300
    assert (np.diff(time_N) == 1).all()
