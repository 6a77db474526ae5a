"""The kernels for GPUs, as Triton's interpreter runs them and as its compiler makes machine code of them.

Neither says anything about their speed.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ensemble.settings import ROOT
from tests.support.compiled_kernels import compile_launches
from tests.support.kernel_cases import (
    ENCODERS,
    SEARCHES,
    SHORTENED,
    SPARE,
    SearchCase,
    encoder_case,
    search_case,
)
from unipinrec.models.transact.kernels.definition import EncoderWeights, encode_plain
from unipinrec.models.transact.kernels.encoder import EncoderKernel
from unipinrec.models.transact.kernels.search import SearchKernel
from unipinrec.models.transact.search import nearest_plain

CPU = torch.device("cpu")
CUDA_MACHINE = 190
"""The machine of an ELF file for NVIDIA's GPUs."""
LEAST_SHARED_BYTES = 99 << 10
"""What a program may have on any GPU from compute capability 8.0 on."""
LARGEST = {torch.float32: 1e-5, torch.float16: 1e-2}
"""Difference from plain PyTorch in the same type, of values of about 1."""


def interpreted(out: Path, environment: dict[str, str]) -> dict[str, Tensor]:
    command = [sys.executable, "-m", "tests.support.interpreted_kernels", str(out)]
    finished = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return load_file(out)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the kernels make of all cases; the interpreter has to be chosen before Triton is imported."""
    return interpreted(tmp_path_factory.mktemp("kernels") / "found.safetensors", {"TRITON_INTERPRET": "1"})


def assert_exact(found: dict[str, Tensor], name: str, case: SearchCase) -> None:
    right = nearest_plain(*case.tensors, case.count)
    for part, wanted in right._asdict().items():
        assert torch.equal(found[f"{name} {part}"][:-SPARE], wanted)
        assert not found[f"{name} {part}"][-SPARE:].any(), "candidates of no request have events"


@pytest.mark.parametrize("name", SEARCHES)
def test_the_search_is_exact(name: str, found: dict[str, Tensor]) -> None:
    assert_exact(found, name, SEARCHES[name])


def test_a_search_made_for_fewer_events_takes_the_latest(found: dict[str, Tensor]) -> None:
    case = SEARCHES["lengths"]
    begin_R, end_R = case.span_R2.unbind(1)
    span_R2 = torch.stack([begin_R.maximum(end_R - SHORTENED), end_R], dim=1)
    assert_exact(found, "latest", replace(case, span_R2=span_R2))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_equals_plain_pytorch(name: str, found: dict[str, Tensor]) -> None:
    case = ENCODERS[name]
    right_BNW = encode_plain(case.token_BNW.float(), case.length_B, case.weights.to(CPU, torch.float32))
    assert (found[name] - right_BNW).abs().max() <= LARGEST[case.token_BNW.dtype]
    for row, length in enumerate(case.length_B.tolist()):
        assert not found[name][row, length:].any(), "padding is not zero"


def normalised(x_NW: Tensor) -> Tensor:
    return (x_NW - x_NW.mean(1, keepdim=True)) / (x_NW.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def attended(x_NW: Tensor, attention_4WW: Tensor) -> Tensor:
    """What each token sees of itself and the tokens before it."""
    query_WW, key_WW, value_WW, output_WW = attention_4WW
    seen = []
    for token in range(len(x_NW)):
        past_NW = x_NW[: token + 1]
        score_N = (past_NW @ key_WW) @ (x_NW[token] @ query_WW) / x_NW.size(1) ** 0.5
        seen.append(score_N.softmax(0) @ past_NW @ value_WW @ output_WW)
    return torch.stack(seen)


def test_plain_pytorch_equals_float64_token_by_token() -> None:
    lengths = (9, 1, 0)
    case = encoder_case(lengths, 12)
    found_BNW = encode_plain(case.token_BNW, case.length_B, case.weights)
    weights = case.weights.to(CPU, torch.float64)
    for row, length in enumerate(lengths[:2]):
        x_NW = case.token_BNW[row, :length].double()
        for attention_4WW, expand_WF, shrink_FW in zip(*weights, strict=True):
            x_NW = normalised(x_NW + attended(x_NW, attention_4WW))
            x_NW = normalised(x_NW + (x_NW @ expand_WF).clamp(min=0) @ shrink_FW)
        assert torch.allclose(found_BNW[row, :length].double(), x_NW, atol=1e-5)
    assert not any(found_BNW[row, length:].any() for row, length in enumerate(lengths))


def test_linear_maps_become_the_encoders_matrices() -> None:
    project, join, inner, outer = (
        torch.nn.Linear(*sizes, bias=False) for sizes in ((64, 192), (64, 64), (64, 32), (32, 64))
    )
    weights = EncoderWeights.of_linear([[part.weight for part in (project, join, inner, outer)]])
    x_NW = torch.randn(5, 64)
    query, key, value, output = weights.attention_L4WW[0]
    assert torch.allclose(
        torch.cat([x_NW @ query, x_NW @ key, x_NW @ value], dim=1), project(x_NW), atol=1e-6
    )
    assert torch.allclose(x_NW @ output, join(x_NW), atol=1e-6)
    hidden_NF = x_NW @ weights.expand_LWF[0]
    assert torch.allclose(hidden_NF, inner(x_NW), atol=1e-6)
    assert torch.allclose(hidden_NF @ weights.shrink_LFW[0], outer(hidden_NF), atol=1e-6)


@pytest.fixture(params=[80, 90], ids=["sm_80", "sm_90"])
def compiled(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[list[Any]]:
    """Kernels that a test launches, compiled for a GPU that need not be there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = compile_launches(request.param, monkeypatch)
    yield kernels
    for kernel in kernels:
        assert f".target sm_{request.param}" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= LEAST_SHARED_BYTES


def assert_machine_code(compiled: list[Any], *names: str) -> None:
    assert tuple(kernel.metadata.name for kernel in compiled) == names
    for kernel in compiled:
        cubin = kernel.asm["cubin"]
        assert cubin[:4] == b"\x7fELF"
        assert int.from_bytes(cubin[18:20], "little") == CUDA_MACHINE
        assert kernel.metadata.name.encode() in cubin


def test_the_search_becomes_machine_code(compiled: list[Any]) -> None:
    case = search_case((16_000,) * 3, (10, 20, 226), 64)
    kernel = SearchKernel(requests=3, candidates=256, events=16_000, count=64, device=CPU)
    kernel(*case.tensors)
    assert_machine_code(compiled, "best_of_blocks_kernel", "best_events_kernel")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_encoder_becomes_machine_code(compiled: list[Any], dtype: torch.dtype) -> None:
    case = encoder_case((192,) * 4, 192, dtype=dtype)
    EncoderKernel(case.weights, 4, 192)(case.token_BNW, case.length_B)
    assert_machine_code(compiled, "encode_kernel")


def test_other_shapes_than_announced_are_refused() -> None:
    case, sequences = search_case((9,), (2,), 2), encoder_case((3,), 16)
    search = SearchKernel(requests=1, candidates=3, events=9, count=2, device=CPU)
    with pytest.raises(ValueError, match="there are 1 requests and 2 candidates; allowed: 1 and 3"):
        search(*case.tensors)
    with pytest.raises(ValueError, match=r"vectors are 8 wide; allowed: \(32, 64, 128, 256\)"):
        search(*search_case((9,), (3,), 2, width=8).tensors)
    with pytest.raises(ValueError, match=r"tokens are \(1, 16, 64\); allowed: contiguous \(2, 16, 64\)"):
        EncoderKernel(sequences.weights, 2, 16)(sequences.token_BNW, sequences.length_B)
