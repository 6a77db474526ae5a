"""8-bit linear layers against E4M3 numbers written out from their definition and products in float64.

Shapes: R rows, I inputs, O outputs, E numbers of E4M3.
"""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from unipinrec.models.common.float8 import Float8Linear, check_float8, quantise, quantise_trunk
from unipinrec.models.common.trunk import Block, PartedLinear, Trunk
from unipinrec.models.unified.config import preset

INPUTS, OUTPUTS, ROWS = 128, 96, 48
HALF_STEP = 2.0**-8
"""Largest relative error of rounding to the 8 significant bits of bfloat16."""


def e4m3_numbers() -> Tensor:
    """All numbers from 0 to 448 [E], ascending: 3 bits of fraction, exponents -6 to 8, subnormals below."""
    numbers = [fraction * 2.0**-9 for fraction in range(8)]
    numbers += [(1 + fraction / 8) * 2.0**power for power in range(-6, 9) for fraction in range(8)]
    return torch.tensor(numbers[:-1])


def rounded_to_e4m3(number_RI: Tensor) -> Tensor:
    """The nearest numbers of E4M3; of two equally near the one with an even fraction."""
    table_E = e4m3_numbers()
    above_RI = torch.searchsorted(table_E, number_RI.abs().contiguous()).clamp(1, len(table_E) - 1)
    low_RI, high_RI = table_E[above_RI - 1], table_E[above_RI]
    to_low_RI, to_high_RI = number_RI.abs() - low_RI, high_RI - number_RI.abs()
    up_RI = (to_high_RI < to_low_RI) | ((to_high_RI == to_low_RI) & (above_RI % 2 == 0))
    return torch.where(up_RI, high_RI, low_RI).copysign(number_RI)


def dequantised(row_RI: Tensor) -> Tensor:
    """What 8 bits and a scale for each row make of rows, in float64."""
    scale_R1 = row_RI.float().abs().amax(1, keepdim=True) / 448
    return rounded_to_e4m3(row_RI.float() / scale_R1).double() * scale_R1.double()


def relative_error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


@pytest.fixture
def linear() -> PartedLinear:
    torch.manual_seed(1)
    return PartedLinear(INPUTS, OUTPUTS)


def drawn_rows(rows: int = ROWS, seed: int = 2) -> Tensor:
    return torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_numbers_become_the_nearest_of_e4m3_and_the_largest_of_a_row_becomes_448() -> None:
    row_RI = torch.cat([drawn_rows().float(), 10.0 ** torch.linspace(-30, 30, INPUTS).unsqueeze(0)])
    quantised_RI, scale_R1 = quantise(row_RI)
    assert quantised_RI.dtype == torch.float8_e4m3fn
    assert torch.equal(quantised_RI.float(), rounded_to_e4m3(row_RI / scale_R1))
    assert (quantised_RI.float().abs().amax(1) == 448).all()


def test_outputs_are_the_product_of_the_rounded_numbers_plus_the_bias(linear: PartedLinear) -> None:
    row_RI = drawn_rows()
    found_RO = Float8Linear.of(linear)(row_RI)
    expected_RO = dequantised(row_RI) @ dequantised(linear.weight.detach()).T + linear.bias.bfloat16()
    assert found_RO.dtype == torch.bfloat16
    assert ((found_RO - expected_RO).abs() <= HALF_STEP * expected_RO.abs() + 1e-5).all()


def test_in_float32_outputs_have_no_rounding_but_that_of_their_inputs(linear: PartedLinear) -> None:
    row_RI = drawn_rows().float()
    found_RO = Float8Linear.of(linear, torch.float32)(row_RI)
    expected_RO = dequantised(row_RI) @ dequantised(linear.weight.detach()).T + linear.bias
    assert (found_RO - expected_RO).abs().max() < 1e-5


def test_the_error_is_that_of_rounding_both_factors_to_four_bits(linear: PartedLinear) -> None:
    """A step is 1/8 of a number's power of two, an error of a step over root 12 in the root mean square.

    Divided by the number, whose logarithm spreads evenly over a power of two, that is .0265; both factors'
    errors are independent, and so are those of the terms of a sum.
    """
    nn.init.normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    row_RI = drawn_rows(512).float()
    found_RO, exact_RO = Float8Linear.of(linear, torch.float32)(row_RI), linear(row_RI).detach()
    one_factor = (1 / 8) / math.sqrt(12) * math.sqrt((1 - 1 / 4) / (2 * math.log(2)))
    assert relative_error(found_RO, exact_RO) == pytest.approx(math.sqrt(2) * one_factor, rel=0.05)


def test_a_row_does_not_depend_on_the_other_rows(linear: PartedLinear) -> None:
    layer, row_RI = Float8Linear.of(linear), drawn_rows()
    together_RO = layer(row_RI)
    for row in (0, 17, ROWS - 1):
        others_RI = 1e4 * drawn_rows(seed=3)
        others_RI[row] = row_RI[row]
        assert torch.equal(layer(others_RI)[row], together_RO[row])
        assert torch.equal(quantise(row_RI[row : row + 1])[0].float(), quantise(row_RI)[0][row, None].float())
        # On a CPU, a product of few rows sums in another order: the last bit may differ.
        alone_O = layer(row_RI[row : row + 1])[0]
        step_O = 2 * HALF_STEP * alone_O.abs()
        assert ((alone_O - together_RO[row]).abs() <= step_O).all()


def test_a_row_of_zeros_gives_the_bias(linear: PartedLinear) -> None:
    row_RI = drawn_rows()
    row_RI[5] = 0
    assert torch.equal(Float8Linear.of(linear)(row_RI)[5], linear.bias.bfloat16())


@pytest.mark.parametrize("power", [-25, -3, 40, 100])
def test_a_row_of_any_magnitude_keeps_its_bits(linear: PartedLinear, power: int) -> None:
    nn.init.zeros_(linear.bias)
    layer, row_RI = Float8Linear.of(linear), drawn_rows()
    mixed_RI = row_RI.clone()
    mixed_RI[::2] *= 2.0**power
    mixed_RO = layer(mixed_RI)
    assert torch.equal(mixed_RO[::2], layer(row_RI)[::2] * 2.0**power)
    assert torch.equal(mixed_RO[1::2], layer(row_RI)[1::2])


def test_an_output_of_large_weights_leaves_the_others_their_bits(linear: PartedLinear) -> None:
    row_RI, larger = drawn_rows(), deepcopy(linear)
    with torch.no_grad():
        larger.weight[3] *= 1e6
    found_RO, before_RO = Float8Linear.of(larger)(row_RI), Float8Linear.of(linear)(row_RI)
    assert torch.equal(found_RO[:, 4:], before_RO[:, 4:])


def test_a_part_is_those_columns_of_the_whole(linear: PartedLinear) -> None:
    row_RI = drawn_rows()
    layer = Float8Linear.of(linear)
    for begin, end in ((0, 32), (32, 96), (16, 80)):
        assert torch.equal(layer.part(row_RI, begin, end), layer(row_RI)[:, begin:end])
        exact_RO = linear(row_RI.float())[:, begin:end]
        assert (linear.part(row_RI.float(), begin, end) - exact_RO).abs().max() < 1e-6


@pytest.mark.parametrize("axes", [(), (1,), (2, 3), (2, 1, 5)])
def test_leading_axes_are_rows(linear: PartedLinear, axes: tuple[int, ...]) -> None:
    row_RI = drawn_rows(math.prod(axes))
    layer = Float8Linear.of(linear)
    assert torch.equal(layer(row_RI.view(*axes, INPUTS)), layer(row_RI).view(*axes, OUTPUTS))


def test_inputs_may_lie_in_memory_in_any_order(linear: PartedLinear) -> None:
    row_RI = drawn_rows()
    layer = Float8Linear.of(linear)
    assert torch.equal(layer(row_RI.t().contiguous().t()), layer(row_RI))


def test_a_compiler_sees_one_graph_of_it(linear: PartedLinear) -> None:
    layer, row_RI = Float8Linear.of(linear), drawn_rows()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(row_RI), layer(row_RI))


@pytest.mark.parametrize(("begin", "end"), [(0, OUTPUTS), (32, OUTPUTS)])
def test_operands_lie_in_memory_as_cuda_wants_them(linear: PartedLinear, begin: int, end: int) -> None:
    """Of tensors without data, PyTorch checks layouts, sizes and scales as it does on CUDA."""
    layer = Float8Linear.of(linear).to("meta")
    row_RI = torch.empty(INPUTS, 7, dtype=torch.bfloat16, device="meta").t()
    output_RO = layer.part(row_RI, begin, end)
    assert (output_RO.shape, output_RO.dtype) == ((7, end - begin), torch.bfloat16)
    with pytest.raises(RuntimeError, match="mat2 must be col_major"):
        Float8Linear(layer.weight_OI.t().contiguous().t(), layer.scale_O, layer.bias_O)(row_RI)


def test_sizes_that_no_matrix_unit_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^in_features is 24; allowed: multiples of 16$"):
        Float8Linear.of(nn.Linear(24, 32))
    with pytest.raises(ValueError, match=r"^out_features is 8; allowed: multiples of 16$"):
        Float8Linear.of(nn.Linear(32, 8))
    with pytest.raises(ValueError, match=r"^bias is None; allowed: a linear layer with a bias$"):
        Float8Linear.of(nn.Linear(32, 32, bias=False))


def drawn_trunk() -> Trunk:
    torch.manual_seed(4)
    trunk = Trunk(preset("tiny", num_items=10, num_actions=2, width=128, heads=4)).eval()
    return trunk.requires_grad_(False)


def test_a_quantised_trunk_is_close_to_the_one_it_was_made_of() -> None:
    """The first keys and values are one 8-bit product, .0375 off. A branch is two in a row, and the errors of
    all four branches reach the hidden states beside tokens that have none.
    """
    exact, trunk = drawn_trunk(), quantise_trunk(drawn_trunk(), torch.float32)
    token_BNC = torch.randn(3, 16, 128, generator=torch.Generator().manual_seed(5))
    (hidden, past), (close_hidden, close_past) = exact.history(token_BNC), trunk.history(token_BNC)
    assert relative_error(close_past[0], past[0]) == pytest.approx(0.0375, rel=0.1)
    assert relative_error(close_past[1], past[1]) < 2 * 0.0375
    assert 0 < relative_error(close_hidden, hidden) < 2 * math.sqrt(2) * 0.0375


def test_a_trunk_is_quantised_once() -> None:
    trunk = quantise_trunk(drawn_trunk())
    with pytest.raises(ValueError, match=r"^qkv is a Float8Linear; allowed: a Linear$"):
        quantise_trunk(trunk)


def test_every_linear_layer_of_a_block_is_replaced() -> None:
    trunk = drawn_trunk()
    assert quantise_trunk(trunk) is trunk
    assert [type(module) for module in trunk.modules() if isinstance(module, nn.Linear)] == []
    quantised = [name for name, module in trunk.named_modules() if isinstance(module, Float8Linear)]
    assert quantised == [
        f"blocks.{block}.{layer}"
        for block in range(2)
        for layer in ("qkv", "output", "feedforward.0", "feedforward.2")
    ]


def test_the_last_layers_queries_keys_and_values_are_those_of_its_projection() -> None:
    block = quantise_trunk(drawn_trunk(), torch.float32).blocks[1]
    assert isinstance(block, Block)
    token_BNC = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(6))
    found = (block.queries(token_BNC), *block.keys_and_values(token_BNC))
    for part, whole in zip(found, block.project(token_BNC), strict=True):
        assert (part - whole).abs().max() < 1e-5


def test_a_continued_history_equals_a_whole_one_in_8_bits() -> None:
    trunk = quantise_trunk(drawn_trunk(), torch.float32)
    token_1NC = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(7))
    hidden_1NC, past_L21HND = trunk.history(token_1NC)
    slot_L2HND = past_L21HND[:, :, 0].clone()
    slot_L2HND[:, :, :, 5:] = 1e3
    hidden_BC = trunk.extended(token_1NC[0, 5:], [0], [5], [11], [slot_L2HND])
    assert (hidden_BC[0] - hidden_1NC[0, -1]).abs().max() < 1e-4
    assert (slot_L2HND - past_L21HND[:, :, 0]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("capability", "refused"), [((8, 0), True), ((8, 6), True), ((8, 9), False), ((9, 0), False)]
)
def test_a_gpu_without_8_bit_units_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    if not refused:
        check_float8(torch.device("cuda", 1))
        return
    with pytest.raises(
        ValueError,
        match=rf"^compute capability of cuda:1 is {capability[0]}\.{capability[1]}; "
        r"allowed for float8: 8\.9 and above$",
    ):
        check_float8(torch.device("cuda", 1))


def test_a_cpu_is_allowed_and_other_devices_are_not() -> None:
    check_float8(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^device is mps; allowed for float8: cpu, cuda$"):
        check_float8(torch.device("mps"))
