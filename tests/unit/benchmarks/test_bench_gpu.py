"""The GPU bench on a CPU: every forward computes the same, costs and bars are right. No time is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks.caller import Answer
from benchmarks.gpu.answers import AnswerCheck, Tally
from benchmarks.gpu.bars import bars_of
from benchmarks.gpu.card import told_fields
from benchmarks.gpu.clock import timing
from benchmarks.gpu.costs import Costs, attention_flops
from benchmarks.gpu.forwards import CopiedDecode, Prefill, ranking_mask
from benchmarks.gpu.idle import Chain, Ran, ran_on_device, top_kernels
from benchmarks.gpu.inputs import Batch, random_batches, random_model, random_vectors
from benchmarks.gpu.intervals import covered
from benchmarks.gpu.parity import parity
from benchmarks.gpu.passing import CARRIES, follow
from benchmarks.gpu.random_requests import RandomRequestMaker, RandomTraffic
from benchmarks.gpu.report import Forward, GpuReport
from benchmarks.gpu.run import GpuBench, GpuPlan, Part, parts_of, started_report
from benchmarks.gpu.served_forwards import FilledSlots
from benchmarks.gpu.shape import PAPER, TINY
from benchmarks.load import Sample
from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.workload import EventSpace
from commands.app import app
from commands.errors import NO_GPU
from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.executors.cuda.item_table import ItemTable
from ensemble.graph import MODEL_REPOSITORY, Graph, Tensors, ensembles_in
from ensemble.loaded_bundle import LoadedBundle
from tests.support.stand_in_device import StandInAllocator
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest
from unipinrec.models.unified.served import ServedModel

CPU = torch.device("cpu")
SIZES = (TINY.positions, TINY.candidates)
CLOSE = 1e-5


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return random_model(TINY, CPU)


@pytest.fixture(scope="module")
def items() -> ItemTable:
    return ItemTable(random_vectors(TINY), "float32", CPU)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return random_batches(TINY, CPU)


@pytest.fixture(scope="module")
def expected(batches: list[Batch]) -> list[Tensor]:
    """By the passes of training in float64, which build no mask over history and candidates together."""
    exact = random_model(TINY, CPU).double()
    vector_VE = torch.from_numpy(random_vectors(TINY)).double()
    return [padded_pass(exact, vector_VE, batch) for batch in batches]


@torch.inference_mode()
def padded_pass(exact: ServedModel, vector_VE: Tensor, batch: Batch) -> Tensor:
    events = {
        name: torch.from_numpy(np.stack([getattr(one, name) for one in batch.histories]))
        for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N")
    }
    token_BNC = exact.tokenizer.events(
        vector_VE[events["item_row_N"]],
        events["actions_N"],
        torch.zeros_like(events["actions_N"], dtype=torch.bool),
        events["timestamp_N"],
        events["surface_N"],
    )
    _, past = exact.trunk.history(torch.cat([exact.tokenizer.begin(len(token_BNC)), token_BNC], dim=1))
    token_BKC = exact.tokenizer.candidates(
        vector_VE[torch.from_numpy(batch.candidate_BK)],
        torch.from_numpy(batch.request_time_B),
        torch.from_numpy(batch.surface_B),
    )
    hidden_BN = torch.zeros(past.size(2), past.size(4), dtype=torch.bool)
    return torch.sigmoid(exact.ranking_head(exact.trunk.candidates(token_BKC, past, hidden_BN)))


@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("mode", ["regional", "whole"])
@torch.inference_mode()
def test_prefill_is_the_forward_of_training(
    model: ServedModel,
    items: ItemTable,
    batches: list[Batch],
    expected: list[Tensor],
    attention: Any,
    mode: Any,
) -> None:
    forward = Prefill(model, items, SIZES, attention).compile(eager, mode)
    for batch, right_BKA in zip(batches, expected, strict=True):
        assert (forward(batch.fields) - right_BKA).abs().max() < CLOSE


@torch.inference_mode()
def test_forwards_over_slots_are_the_forward_of_training(
    model: ServedModel, items: ItemTable, batches: list[Batch], expected: list[Tensor]
) -> None:
    filled = FilledSlots(model, items, TINY, batches, StandInAllocator(), eager)
    copied = CopiedDecode(model, items, filled.storage, SIZES)
    served = filled.scorer(capture=False)
    for place, right_BKA in enumerate(expected):
        by_copy_BKA = copied(batches[place].fields, copied.places(filled.slots(place)))
        assert (by_copy_BKA - right_BKA).abs().max() < CLOSE
        assert (served.probabilities(place) - right_BKA).abs().max() < CLOSE


@pytest.mark.parametrize("mode", ["regional", "whole"])
@torch.inference_mode()
def test_baselines_compile_without_a_break(
    model: ServedModel, items: ItemTable, batches: list[Batch], expected: list[Tensor], mode: Any
) -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, backend="aot_eager", fullgraph=True)

    filled = FilledSlots(model, items, TINY, batches, StandInAllocator(), eager)
    copied = CopiedDecode(model, items, filled.storage, SIZES).compile(traced, mode)
    prefill = Prefill(model, items, SIZES, "sdpa").compile(traced, mode)
    for place, right_BKA in enumerate(expected):
        fields = batches[place].fields
        assert (prefill(fields) - right_BKA).abs().max() < CLOSE
        assert (copied(fields, copied.places(filled.slots(place))) - right_BKA).abs().max() < CLOSE


def test_the_mask_shows_candidates_the_history_and_themselves() -> None:
    assert ranking_mask(3, 2).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 1],
    ]


@torch.inference_mode()
def test_flops_of_a_prefill_are_those_that_pytorch_counts(
    model: ServedModel, items: ItemTable, batches: list[Batch]
) -> None:
    forward = Prefill(model, items, SIZES, "sdpa")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(batches[0].fields)
    cost = Costs(model, TINY.batch, *SIZES).prefill()
    # A dense kernel also computes the pairs that the mask hides.
    every_pair = TINY.batch * sum(SIZES) ** 2
    dense = TINY.model.layers * attention_flops(TINY.model, every_pair)
    assert counter.get_total_flops() == cost.linear_flops + dense
    seen = TINY.batch * int(ranking_mask(*SIZES).sum())
    assert cost.attention_flops == TINY.model.layers * attention_flops(TINY.model, seen)


@torch.inference_mode()
def test_flops_of_a_decode_are_those_that_pytorch_counts(
    model: ServedModel, items: ItemTable, batches: list[Batch]
) -> None:
    filled = FilledSlots(model, items, TINY, batches, StandInAllocator(), eager)
    forward = CopiedDecode(model, items, filled.storage, SIZES)
    place_X = forward.places(filled.slots(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(batches[0].fields, place_X)
    cost = Costs(model, TINY.batch, *SIZES).decode(copied=True)
    dense = TINY.model.layers * attention_flops(TINY.model, TINY.batch * TINY.candidates * sum(SIZES))
    assert counter.get_total_flops() == cost.linear_flops + dense


def test_costs_of_the_papers_shape_are_those_of_a_hand_count() -> None:
    model = ServedModel(PAPER.model.model_copy(update={"num_items": 10}))
    costs = Costs(model, PAPER.batch, PAPER.positions, PAPER.candidates)
    prefill, decode = costs.prefill(), costs.decode(copied=False)
    layers = 24 * 768**2 * 12
    assert 8 * 1648 * layers < prefill.linear_flops < 1.02 * 8 * 1648 * layers
    assert decode.attention_flops == 8 * 12 * 4 * 768 * 656 * 993
    # Without the token's projection and the head, 1648 tokens over 656.
    assert prefill.linear_flops / decode.linear_flops == pytest.approx(1648 / 656, rel=0.01)
    copied = costs.decode(copied=True)
    cached = 8 * 2 * 12 * 768 * 992 * 4
    assert copied.bytes - decode.bytes == 2 * cached
    encoded = costs.encode(PAPER.positions)
    # All but the last layer, and of that the matrices of keys and values.
    per_position = 24 * 768**2 * 11 + 4 * 768**2
    assert encoded.linear_flops == pytest.approx(8 * 992 * per_position, rel=0.02)


def test_parity_tells_differences_and_the_share_of_the_same_best_items() -> None:
    right_BKA = torch.full((1, 20, 4), 0.5)
    right_BKA[0, :, 0] = torch.linspace(0.2, 0.8, 20)
    found_BKA = right_BKA.clone()
    found_BKA[0, 0, 1] = 0.75
    found = parity([found_BKA], [right_BKA])
    assert found.largest == pytest.approx(0.25)
    assert found.mean == pytest.approx(0.25 / 80)
    assert found.largest_logit == pytest.approx(np.log(3.0), rel=1e-5)
    # The worst item now has 0.5 more utility: more than the 10th best.
    assert found.same_top == pytest.approx(0.9)


def test_weights_tell_histories_apart_more_than_bfloat16_does(
    model: ServedModel, items: ItemTable, batches: list[Batch]
) -> None:
    forward = Prefill(model, items, SIZES, "sdpa")
    with torch.inference_mode():
        own_BKA = forward(batches[0].fields)
        swapped = dict(batches[0].fields) | {name: batches[1].fields[name] for name in ("item", "actions")}
        assert (forward(swapped) - own_BKA).abs().max() > 0.1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> RandomBundle:
    folder = tmp_path_factory.mktemp("bundles")
    return make_random_bundle(2_000, folder, lambda _: None, sizes="tiny", retrieval_steps=2)


class StandIn:
    """A device without a clock, whose profiler sees one kernel for half of the time."""

    device = CPU
    compiled = staticmethod(eager)

    def __init__(self) -> None:
        self.allocator = StandInAllocator()

    def chain(self, loaded: LoadedBundle, batch: int, continued: int) -> Chain:
        options = GpuOptions(precision="float32", batches=(batch,), compiled=eager, capture=False)
        return Chain(GpuEngine(loaded, self.allocator, options), loaded, batch, continued)

    def profile(self, run: Callable[[], object]) -> list[Ran]:
        run()
        return [Ran("kernel", 0.0, 10.0)]

    def free(self) -> None:
        pass


def plan(out: Path, *parts: Part) -> GpuPlan:
    return GpuPlan(parts=parts, shape=TINY, items=2_000, requests=1, seed=1, out=out)


def test_parts_run_one_by_one_end_in_one_report_with_every_bar(tmp_path: Path) -> None:
    hardware = StandIn()
    GpuBench(plan(tmp_path, Part.TABLE), hardware, lambda _: None).run()
    GpuBench(plan(tmp_path, Part.IDLE), hardware, lambda _: None).run()
    report = GpuReport.read(tmp_path / "gpu.json")
    assert report is not None
    assert report.table is not None
    assert report.idle is not None
    assert set(report.minutes) == {"table", "idle"}
    lines = [*report.table.forwards, *report.table.parts]
    assert [one.failure for one in lines] == [None] * len(lines)
    assert [one.timing for one in lines] == [None] * len(lines), "a CPU told a GPU's time"
    compared = {one.name: one.parity.mean for one in lines if one.parity}
    assert set(compared) == {
        "prefill_sdpa",
        "prefill_flex",
        "decode_sdpa",
        "decode_flex",
        "decode_flex_graph",
        "decode_flex_graph_float8",
        "decode_flex_graph_int8_items",
    }
    assert compared.pop("decode_flex_graph_float8") < 0.03
    assert max(compared.values()) < 0.004
    assert {one.kind for one in report.idle} == {"cold", "warm"}
    assert len(report.bars) == 11
    assert {one.name for one in report.bars if one.measured is not None} == {"time outside kernels"}


def test_bars_compare_with_what_was_wanted(tmp_path: Path) -> None:
    report = GpuBench(plan(tmp_path), StandIn(), lambda _: None).run()
    assert {bar.met for bar in bars_of(report)} == {None}
    measured = {"prefill_sdpa": 1.0, "decode_sdpa": 2.4, "decode_flex_graph": 4.2}
    forwards = tuple(
        Forward(name=name, title="", precision="", mode="", speed_up=gain) for name, gain in measured.items()
    )
    GpuBench(plan(tmp_path, Part.TABLE), StandIn(), lambda _: None).run()
    with_table = GpuReport.read(tmp_path / "gpu.json")
    assert with_table is not None
    assert with_table.table is not None
    table = with_table.table.model_copy(update={"forwards": forwards})
    found = {bar.name: bar.met for bar in bars_of(with_table.model_copy(update={"table": table}))}
    assert found["speed-up of reusing keys and values"] is False
    assert found["best speed-up in bfloat16"] is True
    assert found["speed-up with float8"] is None


def test_a_report_of_another_card_is_not_added_to(tmp_path: Path) -> None:
    report = GpuBench(plan(tmp_path), StandIn(), lambda _: None).run()
    other = report.model_copy(update={"card": report.card.model_copy(update={"driver": "1"})})
    assert started_report(other, report) is report
    assert started_report(report.model_copy(update={"minutes": {"table": 1.0}}), report).minutes == {
        "table": 1.0
    }


def test_parts_run_in_their_own_order() -> None:
    assert parts_of([Part.SERVED, Part.TABLE]) == (Part.TABLE, Part.SERVED)
    assert parts_of([]) == tuple(Part)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    result = CliRunner().invoke(app, ["bench-gpu", "--only", "table"])
    assert result.exit_code == NO_GPU
    assert len(result.output.strip().splitlines()) == 1
    assert "finds none" in result.output


def test_what_nvidia_smi_does_not_tell_is_left_out() -> None:
    told = told_fields("580.65.06, 81559, 700.00, 345, 1980, 2619")
    assert told == {
        "driver": "580.65.06",
        "memory_mib": "81559",
        "power_limit_w": "700.00",
        "sm_clock_mhz": "345",
        "most_sm_clock_mhz": "1980",
        "memory_clock_mhz": "2619",
    }
    assert "power_limit_w" not in told_fields("580.65.06, 81559, [N/A], 345, 1980, 2619")
    assert told_fields("") == {}


def test_a_timing_is_the_median_with_a_tenth_of_the_launches_on_either_side() -> None:
    found = timing([float(value) for value in range(101)])
    assert (found.p10_ms, found.median_ms, found.p90_ms, found.repetitions) == (10.0, 50.0, 90.0, 101)


def test_overlapping_kernels_cover_their_time_once() -> None:
    assert covered([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]) == 5.0
    assert covered([]) == 0.0


def test_only_what_runs_on_the_device_is_taken_from_a_trace() -> None:
    event = {"ph": "X", "name": "gemm", "ts": 10.0, "dur": 5.0}
    trace = {
        "traceEvents": [
            event | {"cat": "kernel"},
            event | {"cat": "gpu_memcpy", "name": "copy"},
            event | {"cat": "gpu_user_annotation"},
            event | {"cat": "cpu_op"},
            {"ph": "M", "name": "process_name"},
        ]
    }
    assert ran_on_device(trace) == [Ran("gemm", 10.0, 15.0), Ran("copy", 10.0, 15.0)]


def test_kernels_are_told_by_their_share() -> None:
    ran = [Ran("a", 0, 1), Ran("b", 1, 4), Ran("a", 5, 6), Ran("b", 6, 9)]
    assert [(one.name, one.share, one.count) for one in top_kernels(ran, batches=2)] == [
        ("b", 0.75, 1.0),
        ("a", 0.25, 1.0),
    ]


def recommend(**more_of_retrieval: str) -> Graph:
    """The ensemble, with more outputs of its second step."""
    history, retrieval, *others = (graph := ensembles_in(MODEL_REPOSITORY)["recommend"]).steps
    retrieval = replace(retrieval, outputs={**retrieval.outputs, **more_of_retrieval})
    return replace(graph, steps=(history, retrieval, *others))


def test_every_tensor_between_the_nodes_is_counted_and_known() -> None:
    asked: dict[str, set[str]] = {}

    graph = recommend()
    outputs = {step.node: step.outputs for step in graph.steps}

    def call(node: str, tensors: Tensors) -> Tensors:
        asked[node] = set(tensors)
        made: Tensors = {name: np.zeros((1, 10), np.float32) for name in outputs[node]}
        if node == "retrieval":
            made["KV_HANDLE"] = np.array([[9, 1, 2, 993, 3, 0]])
        if "BUNDLE_ID" in made:
            made["BUNDLE_ID"] = np.array([[b"bundle"]], np.object_)
        return made

    found = follow(graph, {"USER_ID": np.zeros((1, 1))}, call, PAPER.model)
    assert asked["history"] == {"USER_ID"}
    assert {"KV_HANDLE", "CANDIDATE_ITEMS", "EVENT_ITEMS"} < asked["ranking"]
    bytes_of = {one.name: one.bytes for one in found.tensors}
    assert bytes_of["KV_HANDLE"] == 48
    assert bytes_of["BUNDLE_ID"] == 10
    assert set(bytes_of) == set(CARRIES)
    assert found.keys_and_values_bytes == 0
    assert found.cached_bytes == 2 * 12 * 768 * 993 * 2
    assert found.bytes == sum(one.bytes for one in found.tensors)


def test_a_tensor_that_nobody_knows_counts_as_keys_and_values() -> None:
    graph = recommend(PAST_KEYS="PAST_KEYS")
    outputs = {step.node: step.outputs for step in graph.steps}

    def call(node: str, _tensors: Tensors) -> Tensors:
        return {name: np.zeros((1, 6), np.int64) for name in outputs[node]}

    found = follow(graph, {}, call, PAPER.model)
    assert found.keys_and_values_bytes == 48


SPACE = EventSpace(items=50, actions=4, surfaces=2, max_history=16, window_block=4)


def test_random_users_come_again_with_more_events_and_never_twice_at_once() -> None:
    traffic = RandomTraffic(SPACE, seed=3, users=4)
    held = [traffic.take() for _ in range(4)]
    assert len({visit.user for visit in held}) == 4
    lengths: dict[int, int] = {}
    returned = 0
    for _ in range(200):
        visit = held.pop(0)
        lengths[visit.user] = len(visit.history)
        traffic.give_back(visit)
        held.append(traffic.take())
        again = held[-1]
        assert again.user not in {one.user for one in held[:-1]}
        if again.user in lengths:
            returned += 1
            assert len(again.history) > min(lengths[again.user], SPACE.max_history)
    assert returned > 100
    assert max(lengths) > 40, "no user was ever new"


def test_random_requests_ask_for_as_many_results_as_the_check_expects() -> None:
    traffic = RandomTraffic(SPACE, seed=3, users=4)
    maker = RandomRequestMaker(np.arange(50), most=8)
    wanted = set()
    for _ in range(300):
        visit = traffic.take()
        assert maker(visit)["NUM_RESULTS"].tolist() == [[maker.results_of(visit)]]
        wanted.add(maker.results_of(visit))
        traffic.give_back(visit)
    assert wanted == set(range(1, 9))


def answered(made: RandomBundle, maker: RandomRequestMaker, count: int) -> list[Sample]:
    """Right answers, by exact search."""
    traffic = RandomTraffic(EventSpace.of(made.manifest), seed=5, users=count)
    offline = OfflineRecommender(made.load_model())
    samples = []
    for visit in [traffic.take() for _ in range(count)]:
        request = OfflineRequest(history=visit.history, request_time=visit.request_time)
        (found,) = offline.recommend([request], maker.results_of(visit), made.manifest.defaults)
        answer = Answer(
            made.item_ids[found.item_row_K], found.score_K, found.probability_KA, made.manifest.bundle_id
        )
        samples.append(Sample(visit, answer))
    return samples


def test_right_answers_pass_in_any_batch_and_another_users_are_found(bundle: RandomBundle) -> None:
    maker = RandomRequestMaker(bundle.item_ids, bundle.num_results)
    samples = answered(bundle, maker, 11)
    check = AnswerCheck(bundle, maker, 1e-4, CPU)
    right = Tally()
    check(samples, right)
    assert (right.answered, right.wrong) == (11, [])
    longest = max(samples, key=lambda one: len(one.visit.history))
    swapped = replace(longest.answer, probability_KA=1 - longest.answer.probability_KA)
    wrong = Tally()
    check([Sample(longest.visit, swapped)], wrong)
    assert any("ACTION_PROBS" in what for what in wrong.wrong)
