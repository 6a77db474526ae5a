"""`unipinrec bench ann` measures what it says, and refuses sizes that it cannot measure."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.ann import measure, search_exactly
from commands.app import app
from experiments.report import Machine
from tests.support import gpu_stand_in


def test_exact_search_gives_the_best_first() -> None:
    vector_VE = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    query_QE = np.array([[1, 0.1], [0.1, -1]], np.float32)
    assert search_exactly(vector_VE, query_QE, 3).tolist() == [[0, 2, 1], [0, 3, 2]]


def test_every_kind_is_measured_and_drawn(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "ann", "--sizes", "700", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ann.json").read_text())
    assert report["machine"]["processor"] == Machine.here().processor
    assert report["machine"]["threads"] == 1
    served = {point["value"]: point["measured"] for point in report["sweeps"]["700 items"]}
    assert list(served) == ["flat", "hnsw", "ivf_hnsw", "sq8"]
    assert served["flat"]["500 left out: recall"] == served["flat"]["500 more fetched: recall"] == 1.0
    assert served["flat"]["size, MB"] == pytest.approx(700 * 128 * 4 / 1e6, rel=0.01)
    for measured in served.values():
        assert 0.95 <= measured["recall@100"] <= 1.0
        assert 0 < measured["one query, ms"] <= measured["one query at p99, ms"]
        assert measured["one query, ms"] < measured["batch of 16, ms"]
    others = [point["value"] for point in report["sweeps"]["700 items, other settings"]]
    assert others[:4] == ["hnsw 50", "hnsw 100", "hnsw 400", "hnsw 800"]
    assert (tmp_path / "ann.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sizes", ["10", "1000,x", "", "-700", "1e6"])
def test_sizes_that_cannot_be_measured_are_refused(tmp_path: Path, sizes: str) -> None:
    result = CliRunner().invoke(app, ["bench", "ann", f"--sizes={sizes}", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.strip() == f"sizes is {sizes}; allowed: whole numbers from 628, with commas between"
    assert not (tmp_path / "out").exists()


def test_a_gpus_kinds_are_measured_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch)
    result = CliRunner().invoke(
        app, ["bench", "ann", "--sizes", "1100", "--device", "cuda", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ann.json").read_text())
    assert report["settings"]["gpu"]
    served = {point["value"]: point["measured"] for point in report["sweeps"]["1,100 items"]}
    assert list(served) == [
        "flat",
        "flat on GPU",
        "hnsw",
        "cagra on GPU",
        "ivf_hnsw",
        "ivf on GPU",
        "sq8",
    ]
    assert "500 more fetched: recall" not in served["flat on GPU"]
    assert served["flat on GPU"]["500 left out: recall"] == 1.0
    others = [point["value"] for point in report["sweeps"]["1,100 items, other settings"]]
    assert [value for value in others if value.startswith("ivf on GPU")] == [
        "ivf on GPU 16",
        "ivf on GPU 32",
        "ivf on GPU 128",
        "ivf on GPU 256",
    ]
    assert len([value for value in others if value.startswith("cagra on GPU")]) == 4
    assert (tmp_path / "ann.png").stat().st_size > 10_000


def test_cagra_is_left_out_where_faiss_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch, cuvs=False)
    told: list[str] = []
    report = measure([700], told.append, device="cuda")
    kinds = [str(point.value) for point in report.sweeps["700 items"]]
    assert [kind for kind in kinds if kind.endswith("on GPU")] == ["flat on GPU", "ivf on GPU"]
    assert told[0] == "cagra is left out: this FAISS is built without cuVS (faiss-gpu-cuvs)"


def test_without_a_gpu_one_line_and_exit_code_3_say_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "ann", "--device", "cuda", "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert result.stderr.startswith("device is cuda; FAISS ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
