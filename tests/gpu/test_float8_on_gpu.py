"""8-bit linear layers on their matrix units against the product of the rounded numbers in float64.

compute-sanitizer finds reads behind the operands, for which a result alone gives no sign:
compute-sanitizer --tool memcheck python -m pytest tests/gpu/test_float8_on_gpu.py

Shapes: R rows, I inputs, O outputs.
"""

import pytest
import torch
from torch import Tensor, nn

from unipinrec.models.common.float8 import LEAST_CAPABILITY, Float8Linear, quantise
from unipinrec.models.common.trunk import PartedLinear

INPUTS, OUTPUTS = 256, 768
ROWS = (1, 7, 16, 100, 255, 256, 257, 1000)
"""The row-wise kernel works on 128 or 256 rows at a time: whole tiles, and all kinds of remainders."""
HALF_STEP = 2.0**-8
"""Largest relative error of rounding to the 8 significant bits of bfloat16."""
SUM_ERROR = 2e-3
"""Of the products' sums, whose partial sums Hopper's 8-bit units keep in fewer bits than float32."""


@pytest.fixture(scope="module")
def gpu(device: torch.device) -> torch.device:
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        pytest.skip(f"compute capability is {capability}; 8-bit matrix units need {LEAST_CAPABILITY}")
    return device


@pytest.fixture(scope="module")
def linear() -> nn.Linear:
    torch.manual_seed(1)
    return PartedLinear(INPUTS, OUTPUTS).requires_grad_(False)


def drawn(rows: int) -> Tensor:
    return torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(rows)).bfloat16()


def rounded(row_RI: Tensor) -> Tensor:
    """The numbers that the units multiply, from the host's own rounding, in float64."""
    quantised_RI, scale_R1 = quantise(row_RI.float())
    return quantised_RI.double() * scale_R1.double()


@pytest.mark.parametrize("rows", ROWS)
@torch.inference_mode()
def test_outputs_are_the_product_of_the_rounded_numbers(
    gpu: torch.device, linear: nn.Linear, rows: int
) -> None:
    found_RO = Float8Linear.of(linear).to(gpu)(drawn(rows).to(gpu)).cpu().double()
    right_RO = rounded(drawn(rows)) @ rounded(linear.weight).T + linear.bias.bfloat16().double()
    allowed_RO = HALF_STEP * right_RO.abs() + SUM_ERROR * right_RO.abs().max()
    assert ((found_RO - right_RO).abs() <= allowed_RO).all()


@pytest.mark.parametrize("rows", ROWS)
@torch.inference_mode()
def test_rows_are_rounded_as_on_the_host(gpu: torch.device, rows: int) -> None:
    here, there = quantise(drawn(rows)), quantise(drawn(rows).to(gpu))
    assert torch.equal(here[0].view(torch.uint8), there[0].view(torch.uint8).cpu())
    assert torch.equal(here[1], there[1].cpu())


@pytest.mark.parametrize("rows", [7, 100, 257])
@torch.inference_mode()
def test_what_stands_behind_the_rows_changes_nothing(gpu: torch.device, linear: nn.Linear, rows: int) -> None:
    layer = Float8Linear.of(linear).to(gpu)
    room_RI = torch.full((512, INPUTS), torch.nan, dtype=torch.bfloat16, device=gpu)
    room_RI[:rows] = drawn(rows).to(gpu)
    found_RO = layer(room_RI[:rows])
    assert found_RO.isfinite().all()
    assert torch.equal(found_RO, layer(drawn(rows).to(gpu)))


@torch.inference_mode()
def test_the_compiled_layer_is_close_to_the_eager_one(gpu: torch.device, linear: nn.Linear) -> None:
    """A compiler may round a scale otherwise, and so a number to its other neighbour."""
    layer, row_RI = Float8Linear.of(linear).to(gpu), drawn(100).to(gpu)
    found_RO, right_RO = torch.compile(layer)(row_RI).float(), layer(row_RI).float()
    assert (found_RO - right_RO).norm() / right_RO.norm() < 0.01
