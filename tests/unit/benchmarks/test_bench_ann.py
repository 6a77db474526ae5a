"""`unipinrec bench-ann` measures what it says, and refuses sizes that it cannot measure."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.ann import measure, recall, search_exactly
from commands.app import app
from experiments.report import Machine
from tests.support import gpu_stand_in


def test_recall_is_the_mean_share_of_the_expected_items() -> None:
    found = [np.array([4, 2, 9, -1]), np.array([7, 8]), np.array([], np.int64)]
    expected = np.array([[2, 4], [8, 1], [5, 6]])
    assert recall(found, expected) == pytest.approx((1.0 + 0.5 + 0.0) / 3)


def test_exact_search_gives_the_best_first() -> None:
    vector_VE = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    query_QE = np.array([[1, 0.1], [0.1, -1]], np.float32)
    assert search_exactly(vector_VE, query_QE, 3).tolist() == [[0, 2, 1], [0, 3, 2]]


def test_every_kind_is_measured_and_drawn(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench-ann", "--sizes", "700", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ann.json").read_text())
    assert report["synthetic"] is True
    assert report["machine"]["processor"] == Machine.here().processor
    assert (report["build_threads"], report["search_threads"]) == (1, 1)
    measured = {one["kind"]: one for one in report["measured"]}
    assert list(measured) == ["flat", "hnsw", "ivf_hnsw", "sq8"]
    assert measured["flat"]["left_out"]["recall_skipped"] == 1.0
    for one in measured.values():
        assert one["items"] == 700
        (served,) = [point for point in one["points"] if point["stored"]]
        assert 0.95 <= served["recall_at_100"] <= 1.0
        assert 0 < served["single"]["median_ms"] <= served["single"]["p99_ms"]
    assert [point["value"] for point in measured["hnsw"]["points"]] == [50, 100, 200, 400, 800]
    assert (tmp_path / "ann.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sizes", ["10", "1000,x", "", "-700", "1e6"])
def test_sizes_that_cannot_be_measured_are_refused(tmp_path: Path, sizes: str) -> None:
    result = CliRunner().invoke(app, ["bench-ann", f"--sizes={sizes}", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.strip() == f"sizes is {sizes}; allowed: whole numbers from 628, with commas between"
    assert not (tmp_path / "out").exists()


def test_a_gpus_kinds_are_measured_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch)
    result = CliRunner().invoke(
        app, ["bench-ann", "--sizes", "1100", "--device", "cuda", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ann.json").read_text())
    assert report["gpu"]
    assert [(one["kind"], one["device"]) for one in report["measured"]] == [
        ("flat", "cpu"),
        ("flat", "cuda"),
        ("hnsw", "cpu"),
        ("cagra", "cuda"),
        ("ivf_hnsw", "cpu"),
        ("ivf", "cuda"),
        ("sq8", "cpu"),
    ]
    measured = {one["kind"]: one for one in report["measured"] if one["device"] == "cuda"}
    assert measured["flat"]["left_out"]["recall_skipped"] is None
    assert measured["flat"]["left_out"]["recall_fetched"] == 1.0
    assert [point["value"] for point in measured["ivf"]["points"]] == [16, 32, 64, 128, 256]
    assert [point["parameter"] for point in measured["cagra"]["points"]] == ["itopk_size"] * 5


def test_cagra_is_left_out_where_faiss_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch, cuvs=False)
    told: list[str] = []
    report = measure([700], told.append, device="cuda")
    assert [one.kind for one in report.measured if one.device == "cuda"] == ["flat", "ivf"]
    assert told[0] == "cagra is left out: this FAISS is built without cuVS (faiss-gpu-cuvs)"


def test_without_a_gpu_one_line_and_exit_code_3_say_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench-ann", "--device", "cuda", "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert result.stderr.startswith("device is cuda; FAISS ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
