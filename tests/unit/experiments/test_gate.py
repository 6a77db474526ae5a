"""The gate compares what it says it does, on worlds that it makes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import gate
from experiments.gate import (
    GateConfig,
    GateReport,
    NearestReport,
    WorldReport,
    fitted_scores,
    nearest_features,
)
from unipinrec.arrays import Bools
from unipinrec.evaluation.auc import auc
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.simulator.config import LIFELONG, SimulatorConfig


def test_features_are_of_the_most_similar_events_and_what_was_done_to_them() -> None:
    similarity_CN = torch.tensor([[0.1, 0.9, 0.5], [-0.2, 0.0, -0.4]])
    acted_NA = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = nearest_features(similarity_CN, acted_NA, 2)
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.25, 0.7], [-0.1, -0.1, 0.0]]))
    few = nearest_features(similarity_CN[:, :1], acted_NA[:1], 2)
    torch.testing.assert_close(few, torch.tensor([[0.05, 0.05, 0.0], [-0.1, -0.1, 0.0]]))
    assert nearest_features(similarity_CN[:, :0], acted_NA[:0], 2).tolist() == [[0.0] * 3] * 2


def test_the_model_learns_what_features_say_and_nothing_else() -> None:
    random = np.random.default_rng(1)
    training_SF, test_SF = (torch.from_numpy(random.standard_normal((6_000, 3))).float() for _ in range(2))

    def labels(feature_SF: torch.Tensor) -> Bools:
        return (feature_SF[:, 0] * feature_SF[:, 1]).numpy() > random.standard_normal(6_000) * 0.1

    training_S, test_S = labels(training_SF), labels(test_SF)
    assert auc(fitted_scores(training_SF, training_S, test_SF, 0), test_S) > 0.9
    assert abs(auc(fitted_scores(training_SF[:, 2:], training_S, test_SF[:, 2:], 0), test_S) - 0.5) < 0.05


def test_a_report_of_small_worlds_is_written_and_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"users": 12, "items": 200, "sessions": 12.0}
    worlds = {"drift": SimulatorConfig(**small), "back": LIFELONG.model_copy(update=small)}
    monkeypatch.setattr(gate, "WORLDS", worlds)
    config = GateConfig(nearest=(4,), seeds=(0, 1), training_feedviews=8, test_feedviews=3)
    lines: list[str] = []
    report = gate.run_gate(tmp_path / "worlds", config, lines.append)
    report.write(tmp_path / "gate.json")
    assert GateReport.model_validate_json((tmp_path / "gate.json").read_text()) == report
    assert report.synthetic
    assert [world.simulator for world in report.worlds] == list(worlds.values())
    for world in report.worlds:
        assert world.truth_auc > 0.8
        assert all(len(values) == 2 for values in world.rows[0].by_seed.values())
        for source, gain in (
            ("all", world.rows[0].all_over_latest),
            ("both", world.rows[0].both_over_latest),
        ):
            expected = world.rows[0].auc[source] - world.rows[0].auc["latest"]
            assert gain.mean == pytest.approx(expected)
            assert gain.low < gain.mean < gain.high
    assert sum(line.startswith(("drift, 4 nearest", "back, 4 nearest")) for line in lines) == 2
    assert gate.run_gate(tmp_path / "worlds", config, lines.append) == report


@pytest.mark.parametrize(
    ("gain", "passed"),
    [
        (Estimate(0.011, 0.001, 0.02), True),
        (Estimate(0.009, 0.001, 0.02), False),
        (Estimate(0.011, -0.001, 0.02), False),
    ],
)
def test_the_whole_history_has_to_win_by_the_bar_and_for_certain(gain: Estimate, passed: bool) -> None:
    rows = tuple(
        NearestReport(nearest=nearest, auc={}, all_over_latest=each, both_over_latest=each, by_seed={})
        for nearest, each in ((16, Estimate(0.02, 0.01, 0.03)), (32, gain))
    )
    world = WorldReport(
        name="w", simulator=LIFELONG, events_per_user=1, rates_auc=0.6, truth_auc=0.9, rows=rows
    )
    assert world.passed is passed
