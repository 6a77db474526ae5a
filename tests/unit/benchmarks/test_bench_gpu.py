"""The GPU bench on a CPU: every forward computes the same, and costs are right. No time is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks.gpu import idle
from benchmarks.gpu.card import spread
from benchmarks.gpu.costs import Costs, attention_flops
from benchmarks.gpu.forwards import Baseline, eager, ranking_mask
from benchmarks.gpu.idle import device_time
from benchmarks.gpu.inputs import Batch, filled_storage, random_batch, random_model, random_vectors
from benchmarks.gpu.run import GpuBench, Part
from benchmarks.gpu.shape import PAPER, TINY
from benchmarks.gpu.show import plot, show
from benchmarks.gpu.table import parity
from commands.app import app
from commands.errors import NO_GPU
from ensemble.executors.cuda.calls import Launches
from ensemble.executors.cuda.engine import GpuOptions
from ensemble.executors.cuda.item_table import ItemTable
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.scorer import CandidateScorer
from tests.support.stand_in_device import StandInAllocator
from unipinrec.models.common.tokens import Events
from unipinrec.models.unified.both_heads import BothHeads
from unipinrec.models.unified.served import ServedModel

CPU = torch.device("cpu")
SIZES = (TINY.positions, TINY.candidates)
CLOSE = 1e-5


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, backend="aot_eager", fullgraph=True)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(
        device=CPU,
        model=random_model(TINY.model, CPU),
        items=ItemTable(random_vectors(TINY.model), "float32", CPU),
        launches=Launches(None),
        compiled=eager,
        batches=(TINY.batch,),
    )


@pytest.fixture(scope="module", params=[1, 2])
def batch(request: pytest.FixtureRequest) -> Batch:
    return batch_of(request.param)


def batch_of(seed: int) -> Batch:
    return random_batch(TINY.model, TINY.batch, TINY.positions - 1, TINY.candidates, seed)


@pytest.fixture(scope="module")
def right(batch: Batch) -> Tensor:
    """By the passes of training in float64, which build no mask over history and candidates together."""
    exact = random_model(TINY.model, CPU).double()
    return padded_pass(exact, torch.from_numpy(random_vectors(TINY.model)).double(), batch)


@torch.inference_mode()
def padded_pass(exact: ServedModel, vector_VE: Tensor, batch: Batch) -> Tensor:
    events = {
        name: torch.from_numpy(np.stack([getattr(one, name) for one in batch.histories]))
        for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N")
    }
    item_BN, actions_BN, *rest = events.values()
    token_BNC = exact.tokenizer.events(Events(vector_VE[item_BN], actions_BN, *rest, actions_BN < 0))
    _, past = exact.trunk.history(torch.cat([exact.tokenizer.begin(len(token_BNC)), token_BNC], dim=1))
    row_BK, time_B, surface_B, hidden_BC = (
        torch.from_numpy(column)
        for column in (batch.candidate_BK, batch.time_B, batch.surface_B, batch.hidden_BC)
    )
    candidate_BKE = vector_VE[row_BK]
    token_BKC = exact.tokenizer.candidates(candidate_BKE, time_B[:, None], surface_B[:, None])
    hidden_BKN = torch.zeros(past.size(2), 1, past.size(4), dtype=torch.bool)
    affinity_BKF = exact.ranking_head.affinity.of_requests(
        candidate_BKE, time_B, vector_VE[item_BN], actions_BN, rest[0], actions_BN < 0
    )
    columns = (candidate_BKE, row_BK, time_B, surface_B, hidden_BC.double())
    probability_BKA: Tensor = BothHeads(exact)(
        exact.trunk.candidates(token_BKC, past, hidden_BKN), affinity_BKF, *columns
    )
    return probability_BKA


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("mode", ["regional", "whole"])
@torch.inference_mode()
def test_prefill_is_the_forward_of_training(
    parts: Parts, batch: Batch, right: Tensor, attention: Any, mode: Any
) -> None:
    forward = Baseline(parts, SIZES, mode).prefill(attention)
    assert (forward(batch.fields(CPU)) - right).abs().max() < CLOSE


@torch.inference_mode()
def test_forwards_over_slots_are_the_forward_of_training(parts: Parts, batch: Batch, right: Tensor) -> None:
    storage = filled_storage(batch, parts, TINY.slots, StandInAllocator())
    copied = Baseline(parts, SIZES, "regional").copied_decode(storage, TINY.batch)
    assert (copied(batch.fields(CPU)) - right).abs().max() < CLOSE
    served_BKA = np.stack(CandidateScorer(parts, storage)(batch.rows(storage)))
    assert np.abs(served_BKA - right.numpy()).max() < CLOSE


@pytest.mark.parametrize("mode", ["regional", "whole"])
@torch.inference_mode()
def test_baselines_compile_without_a_break(parts: Parts, batch: Batch, right: Tensor, mode: Any) -> None:
    storage = filled_storage(batch, parts, TINY.slots, StandInAllocator())
    baseline = Baseline(replace(parts, compiled=traced), SIZES, mode)
    for forward in (baseline.prefill("sdpa"), baseline.copied_decode(storage, TINY.batch)):
        assert (forward(batch.fields(CPU)) - right).abs().max() < CLOSE


def test_the_mask_shows_candidates_the_history_and_themselves() -> None:
    assert ranking_mask(3, 2).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 1],
    ]


@pytest.mark.parametrize("copied", [False, True])
@torch.inference_mode()
def test_flops_are_those_that_pytorch_counts(parts: Parts, copied: bool) -> None:
    baseline = Baseline(parts, SIZES, "regional")
    batch, costs = batch_of(1), Costs(parts.model, TINY.batch, *SIZES)
    storage = filled_storage(batch, parts, TINY.slots, StandInAllocator())
    forward = baseline.copied_decode(storage, TINY.batch) if copied else baseline.prefill("sdpa")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(batch.fields(CPU))
    cost = costs.decode(copied=True) if copied else costs.prefill()
    # A dense kernel also computes the pairs that the mask hides.
    rows = slice(TINY.positions, None) if copied else slice(None)
    mask = ranking_mask(*SIZES)[rows]
    dense, seen = (TINY.batch * pairs for pairs in (mask.numel(), int(mask.sum())))
    attention = [TINY.model.layers * attention_flops(TINY.model, pairs) for pairs in (dense, seen)]
    assert counter.get_total_flops() == cost.linear_flops + attention[0]
    assert cost.attention_flops == attention[1]


def test_costs_of_the_papers_shape_are_those_of_a_hand_count() -> None:
    model = ServedModel(PAPER.model.model_copy(update={"num_items": 10}))
    costs = Costs(model, PAPER.batch, PAPER.positions, PAPER.candidates)
    prefill, decode = costs.prefill(), costs.decode()
    layers = 24 * 768**2 * 12
    assert 8 * 1648 * layers < prefill.linear_flops < 1.02 * 8 * 1648 * layers
    assert decode.attention_flops == 8 * 12 * 4 * 768 * 656 * 993
    # Without the token's projection and the head, 1648 tokens over 656.
    assert prefill.linear_flops / decode.linear_flops == pytest.approx(1648 / 656, rel=0.01)
    cached = 8 * 2 * 12 * 768 * 992 * 4
    assert costs.decode(copied=True).bytes - decode.bytes == 2 * cached
    encoded = costs.encode(PAPER.positions)
    # All but the last layer, and of that the matrices of keys and values.
    per_position = 24 * 768**2 * 11 + 4 * 768**2
    assert encoded.linear_flops == pytest.approx(8 * 992 * per_position, rel=0.02)
    # Five steps that are fed back read weights and cached keys and values each.
    generated = costs.generate(PAPER.steps)
    assert generated.linear_flops == pytest.approx(8 * 5 * layers, rel=0.02)
    assert generated.bytes == pytest.approx(5 * (cached + 4 * 7.08e6 * 12), rel=0.02)


def test_parity_tells_differences_and_the_share_of_the_same_best_items() -> None:
    right = torch.full((1, 20, 4), 0.5)
    right[0, :, 0] = torch.linspace(0.2, 0.8, 20)
    found_BKA = right.clone()
    found_BKA[0, 0, 1] = 0.75
    found = parity(found_BKA, right)
    assert found["largest"] == pytest.approx(0.25)
    assert found["mean"] == pytest.approx(0.25 / 80)
    assert found["largest_logit"] == pytest.approx(np.log(3.0), rel=1e-5)
    # The worst item now has 0.5 more utility: more than the 10th best.
    assert found["same_top"] == pytest.approx(0.9)


@torch.inference_mode()
def test_weights_tell_histories_apart_more_than_bfloat16_does(parts: Parts) -> None:
    forward = Baseline(parts, SIZES, "regional").prefill("sdpa")
    own, other = (batch_of(seed).fields(CPU) for seed in (1, 2))
    swapped = own | {name: other[name] for name in ("item", "actions")}
    assert (forward(swapped) - forward(own)).abs().max() > 0.1


def bench(out: Path) -> GpuBench:
    return GpuBench(
        allocator=StandInAllocator(),
        options=GpuOptions(precision="float32", compiled=eager, capture=False),
        shape=TINY,
        items=2_000,
        requests=1,
        seed=1,
        out=out,
        tell=lambda _: None,
    )


def test_parts_run_one_by_one_end_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "BATCHES", 2)
    bench(tmp_path).run([Part.TABLE])
    report = bench(tmp_path).run([Part.IDLE])
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    assert set(report["minutes"]) == {"table", "idle"}
    lines = report["table"]["forwards"]
    assert not [line["failure"] for line in lines if "failure" in line]
    assert not [line for line in lines if "median_ms" in line], "a CPU told a GPU's time"
    compared = {line["name"]: line["mean"] for line in lines if "mean" in line}
    assert set(compared) == {
        "prefill_sdpa",
        "prefill_flex",
        "decode_sdpa",
        "decode_flex",
        "decode_flex_graph",
        "decode_flex_graph_float8",
        "decode_flex_graph_int8_items",
    }
    assert {line["name"] for line in lines} - set(compared) == {"encode_cold", "encode_warm", "generate"}
    assert compared.pop("decode_flex_graph_float8") < 0.03
    assert max(compared.values()) < 0.004
    assert [line["kind"] for line in report["idle"]] == ["cold", "warm"]
    # No kernel runs on a GPU here.
    assert {line["outside_share"] for line in report["idle"]} == {1.0}


def test_a_line_that_fails_says_why_and_keeps_no_other_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no units for it\nand more")

    monkeypatch.setattr(Baseline, "copied_decode", refuse)
    lines = bench(tmp_path).run([Part.TABLE])["table"]["forwards"]
    failed = {line["name"]: line["failure"] for line in lines if "failure" in line}
    assert failed == {"decode_sdpa": "RuntimeError: no units for it"}


def test_a_report_of_another_card_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    bench(tmp_path).run([Part.TABLE])
    report = json.loads(path.read_text())
    assert bench(tmp_path).run([])["minutes"] == report["minutes"]
    path.write_text(json.dumps(report | {"card": report["card"] | {"torch": "1"}}))
    again = bench(tmp_path).run([])
    assert again["minutes"] == {}
    assert "table" not in again


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    result = CliRunner().invoke(app, ["bench", "gpu", "--only", "table"])
    assert result.exit_code == NO_GPU
    assert len(result.output.strip().splitlines()) == 1
    assert "finds none" in result.output


def test_tables_and_picture_hold_what_was_measured(tmp_path: Path) -> None:
    line = {"name": "decode_flex", "precision": "bfloat16", "mode": "as served"}
    timed = line | {"median_ms": 1.25, "p10_ms": 1.0, "p90_ms": 2.0, "speed_up": 2.5, "copy_share": 0.5}
    report = {
        "card": {"card": "a card", "torch": "2"},
        "shape": "paper",
        "table": {"forwards": [timed, line | {"failure": "no units"}]},
        "answers": {"requests": 100_000, "differences": ["SCORES differs"]},
    }
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    show(console, report)
    shown = console.export_text()
    assert [text in shown for text in ("a card", "1.25", "0.5", "no units", "100,000")] == [True] * 5
    assert "SCORES" not in shown
    assert "through Triton" not in shown
    assert plot(report, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 1_000
    assert not plot({"table": {"forwards": [line]}}, tmp_path / "none.png")


def test_a_timing_is_the_median_with_a_tenth_of_the_launches_on_either_side() -> None:
    found = spread([float(value) for value in range(101)])
    assert found == {"p10_ms": 10.0, "median_ms": 50.0, "p90_ms": 90.0, "launches": 101}


def test_busy_time_is_that_of_kernels_and_copies_alone() -> None:
    def event(name: str, device: DeviceType, end_us: int, **more: Any) -> FunctionEvent:
        times = {"start_us": 0, "end_us": end_us, "stack": []}
        return FunctionEvent(1, name, 0, **times, device_type=device, use_device="cuda", **more)

    events = [event("gemm", DeviceType.CUDA, 3_000), event("gemm", DeviceType.CUDA, 3_000)]
    events += [event("copy", DeviceType.CUDA, 2_000), event("aten::mm", DeviceType.CPU, 9_000)]
    events += [event("a span", DeviceType.CUDA, 9_000, is_user_annotation=True)]
    profile = EventList(events, use_device="cuda")
    profile._build_tree()
    busy_ms, kernels = device_time(profile.key_averages(), batches=2)
    assert busy_ms == 4.0
    assert kernels == [
        {"name": "gemm", "share": 0.75, "count": 1.0},
        {"name": "copy", "share": 0.25, "count": 0.5},
    ]
