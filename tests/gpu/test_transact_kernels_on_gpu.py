"""The second ranker's kernels on the GPU: against plain PyTorch, in a captured graph, and their speed."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.card import time_launch
from tests.support.kernel_cases import ENCODERS, SEARCHES, EncoderCase, SearchCase, encoder_case, search_case
from unipinrec.models.transact.kernels.definition import encode_plain
from unipinrec.models.transact.kernels.encoder import EncoderKernel
from unipinrec.models.transact.kernels.search import SearchKernel
from unipinrec.models.transact.search import Nearest, nearest_plain

LARGEST = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 0.1}
"""Difference of values of about 1 from float32 on the host."""
LEAST_SPEED_UP = {"encoder": 4.1, "search": 19.8}
"""Over plain PyTorch; what the authors' kernels reached on an L40S at the same sizes (arXiv 2506.02267)."""
LONGEST = 16_000

Result = TypeVar("Result")

ALL_SEARCHES = SEARCHES | {
    "one user": search_case((LONGEST,), (256,), 64, vectors=9000),
    "many equal scores": search_case((LONGEST, 5000), (90, 40), 64, vectors=50, largest=2),
}


def on_gpu(tensors: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)


def search_kernel(case: SearchCase, device: torch.device) -> SearchKernel:
    return SearchKernel(
        requests=len(case.span_R2),
        candidates=len(case.candidate_CE),
        events=int(case.span_R2.diff().max()),
        count=case.count,
        device=device,
    )


def assert_nearest(found: Nearest, case: SearchCase) -> None:
    right = nearest_plain(*case.tensors, case.count)
    assert torch.equal(found.event_CK.cpu(), right.event_CK)
    assert torch.equal(found.valid_C.cpu(), right.valid_C)


def encoder_kernel(case: EncoderCase, device: torch.device, dtype: torch.dtype) -> EncoderKernel:
    return EncoderKernel(case.weights.to(device, dtype), *case.token_BNW.shape[:2])


def assert_encoded(found_BNW: Tensor, case: EncoderCase, dtype: torch.dtype) -> None:
    weights = case.weights.to(torch.device("cpu"), torch.float32)
    right_BNW = encode_plain(case.token_BNW.float(), case.length_B, weights)
    assert (found_BNW.cpu() - right_BNW).abs().max() <= LARGEST[dtype]


@pytest.mark.parametrize("name", ALL_SEARCHES)
def test_the_search_is_exact(name: str, device: torch.device) -> None:
    case = ALL_SEARCHES[name]
    assert_nearest(search_kernel(case, device)(*on_gpu(case.tensors, device)), case)


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_equals_plain_pytorch(name: str, dtype: torch.dtype, device: torch.device) -> None:
    case = ENCODERS[name]
    found_BNW = encoder_kernel(case, device, dtype)(*on_gpu((case.token_BNW, case.length_B), device))
    assert_encoded(found_BNW, case, dtype)


def captured(launch: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A launch as a graph, and what each replay of it writes to; the first launch, outside, compiles."""
    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = launch()
    return graph, result


def test_a_captured_search_serves_other_lengths(device: torch.device) -> None:
    cases = [search_case(lengths, (5, 3), 8, seed=seed) for seed, lengths in enumerate([(300, 40), (7, 333)])]
    static, kernel = on_gpu(cases[0].tensors, device), search_kernel(cases[1], device)
    graph, found = captured(lambda: kernel(*static))
    for case in cases:
        for place, tensor in zip(static, case.tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        assert_nearest(found, case)


def test_a_captured_encoder_serves_other_lengths(device: torch.device) -> None:
    cases = [encoder_case(lengths, 192) for lengths in ((192, 0, 100), (1, 64, 130))]
    kernel = encoder_kernel(cases[0], device, torch.float16)
    token_BNW, length_B = on_gpu((cases[0].token_BNW, cases[0].length_B), device)
    graph, found_BNW = captured(lambda: kernel(token_BNW, length_B))
    for case in cases:
        token_BNW.copy_(case.token_BNW)
        length_B.copy_(case.length_B)
        graph.replay()
        assert_encoded(found_BNW, replace(case, weights=cases[0].weights), torch.float16)


def median_ms(launch: Callable[[], object], device: torch.device) -> float:
    return time_launch(launch, device)["median_ms"]


def test_the_encoder_is_faster_than_pytorch(device: torch.device) -> None:
    case = encoder_case((256,) * 256, 256, dtype=torch.float16)
    token_BNW, length_B = on_gpu((case.token_BNW, case.length_B), device)
    kernel, weights = encoder_kernel(case, device, torch.float16), case.weights.to(device, torch.float16)
    plain_ms = median_ms(lambda: encode_plain(token_BNW, length_B, weights), device)
    kernel_ms = median_ms(lambda: kernel(token_BNW, length_B), device)
    print(f"encoder, 256 x 256 tokens: {kernel_ms:.3f} ms, PyTorch {plain_ms:.3f} ms")
    assert plain_ms / kernel_ms >= LEAST_SPEED_UP["encoder"]


def test_the_search_is_faster_than_pytorch(device: torch.device) -> None:
    """PyTorch's way copies each user's events for each candidate, multiplies in float16 and orders."""
    users, candidates, count = 64, 256, 64
    case = search_case((LONGEST,) * users, (candidates // users,) * users, count, vectors=100_000, gap=0)
    tensors, kernel = on_gpu(case.tensors, device), search_kernel(case, device)
    event_USE = tensors[0][tensors[1]].view(users, LONGEST, -1)
    user_C = torch.arange(users, device=device).repeat_interleave(candidates // users)
    candidate_CE1 = tensors[3].half().unsqueeze(-1)

    def plain() -> Tensor:
        unit_USE = F.normalize(event_USE.half(), dim=-1)
        return (unit_USE[user_C] @ candidate_CE1).squeeze(-1).topk(count).indices

    plain_ms, kernel_ms = median_ms(plain, device), median_ms(lambda: kernel(*tensors), device)
    print(f"search, 64 x 16,000 events, 256 candidates: {kernel_ms:.3f} ms, PyTorch {plain_ms:.3f} ms")
    assert plain_ms / kernel_ms >= LEAST_SPEED_UP["search"]
