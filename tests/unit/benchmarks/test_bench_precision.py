"""The benchmark of precisions compares the same users and candidates, by measures worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.precision import PrecisionReport, kendall_by_user, measure_precision, top_overlap_by_user
from commands.app import app
from export.bundle_writer import DatasetMismatchError
from tests.conftest import Exported
from unipinrec.bundle import read_manifest
from unipinrec.training.checkpoint import latest_checkpoint

USERS = 12


def test_kendalls_tau_counts_pairs() -> None:
    """Of 4 items: the same order, the reverse, one of six pairs swapped, and one tied."""
    first = np.array([4.0, 3.0, 2.0, 1.0])
    second = np.array(
        [[8.0, 6.0, 4.0, 2.0], [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 2.0, 1.0], [3.0, 3.0, 2.0, 1.0]]
    )
    found = kendall_by_user(np.tile(first, (4, 1)), second)
    assert found.tolist() == pytest.approx([1, -1, (5 - 1) / 6, 5 / 6])


def test_overlap_is_the_share_of_the_best_that_both_have() -> None:
    first = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
    second = np.array([[4.0, 5.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 9.0, 2.0, 1.0, 8.0]])
    assert top_overlap_by_user(first, second, 2).tolist() == [1.0, 0.0, 0.5]


def test_precisions_are_compared_over_the_same_users(exported: Exported, tmp_path: Path) -> None:
    checkpoint = latest_checkpoint(exported.bundle.parent.parent / "checkpoints")
    assert checkpoint is not None
    told: list[str] = []
    report = measure_precision(checkpoint, exported.dataset, USERS, told.append)
    assert (report.users, report.retrieved, report.epoch) == (USERS, 127, 1)
    assert report.dataset == read_manifest(exported.bundle).dataset
    assert [row.precision for row in report.rows] == ["float32", "bfloat16", "float8"]
    exact, half, quarter = report.rows
    assert len(told) == 3
    assert (exact.differences, exact.agreement, exact.logits) == ({}, {}, None)
    for row in (half, quarter):
        for name, estimate in row.differences.items():
            assert estimate.mean == pytest.approx(row.metrics[name].mean - exact.metrics[name].mean)
            assert estimate.low <= estimate.mean <= estimate.high
    assert half.logits is not None
    assert quarter.logits is not None
    assert 0 < half.logits.mean < half.logits.p99 < half.logits.largest
    # 4 bits in place of 8 for two factors of three.
    assert 3 * half.logits.mean < quarter.logits.mean
    assert 0.5 < quarter.agreement["kendall"].mean < half.agreement["kendall"].mean < 1
    report.write(tmp_path / "precision.json")
    assert PrecisionReport.model_validate(json.loads((tmp_path / "precision.json").read_text())) == report


def test_another_dataset_is_refused(exported: Exported) -> None:
    checkpoint = latest_checkpoint(exported.bundle.parent.parent / "checkpoints")
    assert checkpoint is not None
    info = exported.dataset.info.model_copy(update={"sha256": {"events.parquet": "0"}})
    with pytest.raises(DatasetMismatchError, match="was trained on another dataset than synthetic"):
        measure_precision(checkpoint, replace(exported.dataset, info=info), USERS, print)


def test_a_folder_without_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench-precision", "--training", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        f"--training is {tmp_path}, which holds no checkpoint; run `unipinrec train`"
    )
    assert not (tmp_path / "precision.json").exists()
