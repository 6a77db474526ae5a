"""The GPU's second ranker on a CPU, without capture: against the packed module, whatever pads its batches."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ensemble.executors.cuda.ranker_kernels import KernelEncoder, kernels_for
from ensemble.executors.cuda.ranker_shapes import Asked, RankingShape, RankingShapes
from ensemble.executors.cuda.second_ranker import FieldsRanker, GpuSecondRanker, Kernels, fields_of
from ensemble.executors.cuda.static_call import Packing
from ensemble.settings import ROOT
from tests.support import interpreted_ranker
from tests.support.compiled_kernels import compile_launches
from tests.support.random_rankers import SWITCHES
from tests.support.ranked_shapes import (
    COUNTS,
    LENGTHS,
    candidates_of,
    on_cpu,
    plain_kernels,
    random_model,
    requests_of,
    shapes_of,
)
from tests.support.slate_requests import ACTIONS, ITEMS, LAST_BITS, NOW, SURFACES, slates
from unipinrec.models.transact.fixed import layers_of
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.search import Nearest

MODELS: list[tuple[str, dict[str, Any]]] = [
    *(("transact", changes) for changes in SWITCHES),
    ("transact-v2", {}),
    ("transact-v2", {"nearest_counts": False}),
    ("transact-v2", {"lifelong_nearest": 0, "impressions_nearest": 0}),
    ("transact-v2", {"max_impressions": 0}),
    ("transact-v2", {"half_lives_s": ()}),
]
SHAPE = RankingShape(4, 100, 16)
PAPERS = {
    "max_events": 16_000, "max_impressions": 1_000, "realtime_events": 100, "lifelong_nearest": 64,
    "latest_events": 48, "realtime_nearest": 32, "impressions_nearest": 48, "search_dim": 32,
}  # fmt: skip
"""Sizes of TransAct V2 (arXiv 2506.02267 §3)."""


@pytest.mark.parametrize(("name", "changes"), MODELS, ids=str)
def test_fixed_shapes_give_what_the_packed_module_gives(name: str, changes: dict[str, Any]) -> None:
    model = random_model(name, **changes)
    requests, candidates = requests_of(), candidates_of()
    right = OfflineSecondRanker(model).action_probabilities(requests, candidates)
    found = on_cpu(model).action_probabilities(requests, candidates)
    for found_KA, right_KA in zip(found, right, strict=True):
        assert found_KA.dtype == np.float32
        assert found_KA.shape == right_KA.shape
        assert np.allclose(found_KA, right_KA, rtol=0, atol=LAST_BITS)


def test_fixed_shapes_of_the_papers_sizes_give_the_same() -> None:
    model = random_model("transact-v2", **PAPERS)
    lengths = ((0, 1), (1, 0), (99, 1), (100, 999), (149, 1_001), (16_000, 1_000), (20_000, 5_000))
    requests, candidates = requests_of(lengths), candidates_of((3, 1, 2, 4, 5, 6, 8))
    shapes = RankingShapes(max_rows=16_000, max_candidates=8, batches=(4,), most=16)
    ranker = GpuSecondRanker(model, torch.device("cpu"), plain_kernels(model), shapes=shapes)
    right = OfflineSecondRanker(model).action_probabilities(requests, candidates)
    for found_KA, right_KA in zip(ranker.action_probabilities(requests, candidates), right, strict=True):
        assert np.allclose(found_KA, right_KA, rtol=0, atol=LAST_BITS)


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
def test_no_request_changes_another_or_a_later_one(name: str) -> None:
    model = random_model(name)
    ranker, requests, candidates = on_cpu(model), requests_of(), candidates_of()
    together = ranker.action_probabilities(requests, candidates)
    for request, row_K, right_KA in zip(requests, candidates, together, strict=True):
        (found_KA,) = ranker.action_probabilities([request], [row_K])
        assert np.allclose(found_KA, right_KA, rtol=0, atol=LAST_BITS)
    again = ranker.action_probabilities(requests, candidates)
    assert all(np.array_equal(*pair) for pair in zip(again, together, strict=True))


def staged(ranker: GpuSecondRanker, packing: Packing) -> dict[str, Tensor]:
    """Three requests with nine candidates, in a shape that has room for more."""
    words_W = torch.zeros(packing.words, dtype=torch.int64)
    lengths, counts = ((20, 5), (0, 0), (30, 35)), (4, 3, 2)
    fields = packing.views(words_W.numpy())
    ranker._fill(fields, requests_of(lengths), candidates_of(counts))
    return packing.views(words_W)


def spoil(fields: Mapping[str, Tensor]) -> None:
    """Put other events, impressions, candidates and users where nobody asked for any."""
    draw = torch.Generator().manual_seed(5)
    bounds = {"item_row_N": ITEMS, "actions_N": 2**ACTIONS, "surface_N": SURFACES}
    for kind in ("event", "impression"):
        end = int(fields[f"{kind}_offset"][-1])
        for name, bound in bounds.items():
            rest = fields[f"{kind}_{name}"][end:]
            rest.copy_(torch.randint(bound, rest.shape, generator=draw))
        fields[f"{kind}_timestamp_N"][end:] = NOW - 7
    fields["candidate"][int(fields["candidate_offset"][-1]) :] = ITEMS - 1
    fields["time"][3:], fields["surface"][3:] = NOW + 99, SURFACES - 1
    fields["user_rate"].view(torch.float64)[3:] = 50.0


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
def test_padding_changes_nothing(name: str) -> None:
    model = random_model(name)
    packing, rank = Packing(fields_of(SHAPE, model)), FieldsRanker(model, plain_kernels(model))
    fields = staged(on_cpu(model), packing)
    with torch.inference_mode():
        right_CA = rank(fields)
        spoil(fields)
        spoilt_CA = rank(fields)
    assert right_CA.shape == (SHAPE.candidates, ACTIONS)
    assert torch.allclose(spoilt_CA[:9], right_CA[:9], rtol=0, atol=1e-6)
    assert not torch.allclose(spoilt_CA[9:], right_CA[9:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["transact", "transact-v2"])
def test_a_graph_can_hold_it_for_no_shape_depends_on_values(name: str) -> None:
    """Tensors without memory refuse what asks for values, and to meet those that are still on the host."""
    nowhere = torch.device("meta")
    model = random_model(name).to(nowhere)

    def search(*given: Any) -> Nearest:
        shape = (len(given[3]), given[5])
        return Nearest(*(torch.empty(size, dtype=torch.int64, device=nowhere) for size in (shape, shape[:1])))

    kernels = Kernels(search, layers_of(model.encoder)) if isinstance(model, TransActV2) else None
    packing = Packing(fields_of(SHAPE, model))
    fields = packing.views(torch.empty(packing.words, dtype=torch.int64, device=nowhere))
    with torch.inference_mode():
        assert FieldsRanker(model, kernels)(fields).shape == (SHAPE.candidates, ACTIONS)
    with torch.inference_mode(), pytest.raises((NotImplementedError, RuntimeError)):
        model(slates().requests.to(nowhere))


def test_the_kernels_give_what_the_packed_module_gives(tmp_path: Path) -> None:
    """Triton's interpreter, which has to be chosen before Triton is imported, runs them."""
    out = tmp_path / "found.safetensors"
    finished = subprocess.run(
        [sys.executable, "-m", interpreted_ranker.__name__, str(out)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = load_file(out)
    right = OfflineSecondRanker(interpreted_ranker.small_model()).action_probabilities(
        requests_of(interpreted_ranker.LENGTHS), candidates_of(interpreted_ranker.COUNTS)
    )
    for place, right_KA in enumerate(right):
        assert torch.allclose(found[str(place)], right_KA, rtol=0, atol=LAST_BITS)


def test_the_kernels_of_served_shapes_become_machine_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    model = random_model("transact-v2", **PAPERS)
    shape = max(each for each in RankingShapes.of(model.config, 128).largest_first() if each.batch == 1)
    packing = Packing(fields_of(shape, model))
    fields = packing.views(torch.zeros(packing.words, dtype=torch.int64))
    kernels = kernels_for(model, torch.device("cpu"), torch.float16)
    compiled = compile_launches(90, monkeypatch)
    with torch.inference_mode():
        FieldsRanker(model, kernels)(fields)
    names = [kernel.metadata.name for kernel in compiled]
    assert names == 3 * ["best_of_blocks_kernel", "best_events_kernel"] + ["encode_kernel"]
    assert all(kernel.asm["cubin"][:4] == b"\x7fELF" for kernel in compiled)


def test_launches_and_the_memory_of_the_vectors_are_counted() -> None:
    ranker = on_cpu(random_model("transact"))
    ranker.action_probabilities(requests_of(), candidates_of())
    told = {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in ranker.collect()
        for sample in family.samples
    }
    assert told["unipinrec_cuda_graphs"] == told["unipinrec_launches_total/graph"] == 0
    # The thirty candidates are two rows, and who has none is no row.
    assert told["unipinrec_bucket_rows_total/user"] == len(LENGTHS)
    assert told["unipinrec_launches_total/eager"] >= sum(COUNTS) / 16
    assert told["unipinrec_item_table_bytes"] > 0


def test_sizes_without_a_kernel_are_refused_or_left_to_pytorch() -> None:
    cpu = torch.device("cpu")
    wide = random_model("transact-v2", search_dim=257)
    with pytest.raises(ValueError, match=r"^search_dim is 257; allowed on a GPU: 1 to 256$"):
        kernels_for(wide, cpu, torch.float16)
    for changes, encoder in (({}, KernelEncoder), ({"item_dim": 24}, FunctionType)):
        model = random_model("transact-v2", **changes)
        kernels = kernels_for(model, cpu, torch.float16)
        assert kernels is not None
        assert isinstance(kernels.encode, encoder)
        assert model.search_VW.shape == (ITEMS, 32)
        assert not model.search_VW[:, model.config.search_dim :].any()


def test_transact_v2_needs_kernels() -> None:
    model = random_model("transact-v2")
    with pytest.raises(TypeError, match=r"^kernels is None; allowed for TransAct alone$"):
        GpuSecondRanker(model, torch.device("cpu"), None, shapes=shapes_of(model))


SHAPES = RankingShapes(max_rows=16_000, max_candidates=656)


def test_shapes_reach_what_a_model_reads() -> None:
    shapes = SHAPES.largest_first()
    assert shapes[0] == RankingShape(16, 256_000, 2_048)
    assert {shape.candidates for shape in shapes if shape.batch == 1} == {656}
    assert [shape.rows for shape in shapes if shape.batch == 4] == [64_000, 16_384, 4_096, 1_024]
    few = RankingShapes(max_rows=20, max_candidates=8, batches=(2,)).largest_first()
    assert few == [RankingShape(2, 40, 16)]


@given(st.lists(st.builds(Asked, rows=st.integers(0, 16_000), candidates=st.integers(1, 2_048)), max_size=60))
def test_every_request_is_in_one_batch_of_the_smallest_shape_that_fits(asked: list[Asked]) -> None:
    split = SHAPES.split(asked)
    assert [place for _, places in split for place in places] == list(range(len(asked)))
    for shape, places in split:
        needs = (
            len(places),
            sum(asked[place].rows for place in places),
            sum(asked[place].candidates for place in places),
        )
        fitting = [
            each
            for each in SHAPES.largest_first()
            if all(
                need <= has for need, has in zip(needs, (each.batch, each.rows, each.candidates), strict=True)
            )
        ]
        assert shape == min(fitting)


@given(st.lists(st.integers(0, 7_000), max_size=8))
def test_only_requests_beyond_a_launch_are_cut(counts: list[int]) -> None:
    pieces = SHAPES.pieces(counts)
    for place, count in enumerate(counts):
        parts = [part for of, part in pieces if of == place]
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(count))
        assert len(parts) == -(-count // 2_048)


def test_more_rows_than_any_shape_are_refused() -> None:
    shapes = RankingShapes(max_rows=20, max_candidates=8, batches=(2,))
    with pytest.raises(
        ValueError, match=r"^requests have 41 rows and 1 candidates; allowed: up to 40 and 16$"
    ):
        shapes.split([Asked(41, 1)])
