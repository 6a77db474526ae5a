"""Compiled passes over slots against eager ones and against the passes over exact lengths.

All memory that a row must not read holds NaN, which one touch would spread.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unipinrec.models.common.slot_attention import BLOCK
from unipinrec.models.common.slotted import Compile, SlottedTrunk
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.unified.config import UnifiedConfig, preset

SLOTS, SLOT = 5, 3 * BLOCK
SCRATCH = SLOTS * SLOT
ROWS = 4
POSITIONS = SCRATCH + (ROWS + 1) * BLOCK
LENGTHS = (1, 128, 200, 321)
PLACES = (3, 0, 4, 1)
"""Slot 2 is nobody's."""
LARGEST = {torch.float32: 2e-4, torch.bfloat16: 0.02}
"""Of the root mean square of a difference, over that of the right numbers."""


COMPILERS: dict[str, Compile] = {"compiled": torch.compile, "eager": lambda function: function}


@dataclass(frozen=True)
class Batch:
    """Histories of many lengths, padded with NaN, and candidates for each."""

    exact: Trunk
    """On the host and in float64."""
    token_BNC: Tensor
    candidate_BKC: Tensor
    step_BSC: Tensor

    def history(self, row: int) -> Tensor:
        return self.token_BNC[row : row + 1, : LENGTHS[row]]


def config() -> UnifiedConfig:
    sizes = preset("tiny", num_items=10, num_actions=2).model_dump()
    wanted = {"layers": 3, "width": 128, "heads": 2, "max_history": 320, "window_block": 32}
    return UnifiedConfig.model_validate(sizes | wanted)


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(3)
    exact = Trunk(config()).double().eval().requires_grad_(False)
    width = config().width
    token_BNC = torch.full((ROWS, max(LENGTHS), width), torch.nan, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        token_BNC[row, :length] = torch.randn(length, width)
    candidates, steps = (torch.randn(ROWS, count, width).double() for count in (140, 3))
    return Batch(exact, token_BNC, candidates, steps)


@dataclass(frozen=True)
class OnDevice:
    """The same trunk on the GPU, over a memory full of poison."""

    trunk: SlottedTrunk
    memory_L2HPD: Tensor
    dtype: torch.dtype
    poison: float = torch.nan

    def __call__(self, values: Tensor) -> Tensor:
        return values.nan_to_num(self.poison).to(self.memory_L2HPD.device, self.dtype)

    def numbers(self, *values: int) -> Tensor:
        return torch.tensor(values, device=self.memory_L2HPD.device)

    @property
    def begins(self) -> Tensor:
        """Where each row's slot begins, [B]."""
        return self.numbers(*(place * SLOT for place in PLACES))


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = getattr(torch, request.param)
    return found


@pytest.fixture(params=["compiled", "eager"])
def on_device(
    request: pytest.FixtureRequest, batch: Batch, device: torch.device, dtype: torch.dtype
) -> OnDevice:
    model = config()
    # Uncompiled attention computes every score before it hides most, and NaN survives that.
    poison = torch.nan if request.param == "compiled" else 1e4
    memory = torch.full(
        (model.layers, 2, model.heads, POSITIONS, model.head_dim), poison, device=device, dtype=dtype
    )
    trunk = Trunk(model).eval().requires_grad_(False)
    trunk.load_state_dict(batch.exact.state_dict())
    slotted = SlottedTrunk(trunk.to(device, dtype), memory, SLOT, COMPILERS[request.param])
    return OnDevice(slotted, memory, dtype, poison)


def assert_close(found: Tensor, right: Tensor, dtype: torch.dtype) -> None:
    difference = found.double().cpu() - right
    assert difference.norm() / right.norm() < LARGEST[dtype]


@torch.inference_mode()
def encoded(batch: Batch, on_device: OnDevice) -> Tensor:
    """All histories in two steps: hidden states [B, C] after the last events."""
    zero_B, count_B = on_device.numbers(*[0] * ROWS), on_device.numbers(*LENGTHS)
    first_B = (count_B // 2).clamp(min=1)
    on_device.trunk.continued(on_device(batch.token_BNC), on_device.begins, zero_B, first_B)
    rest_BNC = torch.full_like(batch.token_BNC, torch.nan)
    for row, (past, length) in enumerate(zip(first_B.tolist(), LENGTHS, strict=True)):
        rest_BNC[row, : length - past] = batch.token_BNC[row, past:length]
    # A history of one event has no second part, and is computed again as a whole.
    rest_BNC[0] = batch.token_BNC[0]
    past_B = torch.where(count_B > 1, first_B, 0)
    return on_device.trunk.continued(on_device(rest_BNC), on_device.begins, past_B, count_B - past_B)


@torch.inference_mode()
def test_continued_histories_equal_one_pass_over_exact_lengths(batch: Batch, on_device: OnDevice) -> None:
    hidden_BC = encoded(batch, on_device)
    for row, (place, length) in enumerate(zip(PLACES, LENGTHS, strict=True)):
        hidden_1NC, past_L21HND = batch.exact.history(batch.history(row))
        assert_close(hidden_BC[row], hidden_1NC[0, -1], on_device.dtype)
        kept = on_device.memory_L2HPD[:, :, :, place * SLOT : place * SLOT + length]
        assert_close(kept, past_L21HND[:, :, 0], on_device.dtype)
    of_nobody = on_device.memory_L2HPD[:, :, :, 2 * SLOT : 3 * SLOT]
    assert (of_nobody.isnan() | (of_nobody == of_nobody.flatten()[0])).all(), "another slot was written"


@torch.inference_mode()
def test_candidates_over_slots_equal_candidates_over_exact_caches(batch: Batch, on_device: OnDevice) -> None:
    encoded(batch, on_device)
    found = on_device.trunk.candidates(
        on_device(batch.candidate_BKC), on_device.begins, on_device.numbers(*LENGTHS)
    )
    for row in range(ROWS):
        _, past_L21HND = batch.exact.history(batch.history(row))
        hidden_1N = torch.zeros(1, LENGTHS[row], dtype=torch.bool)
        right = batch.exact.candidates(batch.candidate_BKC[row : row + 1], past_L21HND, hidden_1N)
        assert_close(found[row], right[0], on_device.dtype)


@torch.inference_mode()
def test_generated_tokens_equal_a_longer_history(batch: Batch, on_device: OnDevice) -> None:
    encoded(batch, on_device)
    before = on_device.memory_L2HPD[:, :, :, :SCRATCH].clone()
    scratch_B = on_device.numbers(*(SCRATCH + row * BLOCK for row in range(ROWS)))
    for step in range(batch.step_BSC.size(1)):
        found = on_device.trunk.generated(
            on_device(batch.step_BSC[:, step : step + 1]),
            on_device.begins,
            on_device.numbers(*LENGTHS),
            scratch_B,
            on_device.numbers(*[step] * ROWS),
        )
        for row in range(ROWS):
            longer = torch.cat([batch.history(row), batch.step_BSC[row : row + 1, : step + 1]], dim=1)
            assert_close(found[row], batch.exact.history(longer)[0][0, -1], on_device.dtype)
    after = on_device.memory_L2HPD[:, :, :, :SCRATCH]
    assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), "a slot was written"


@torch.inference_mode()
def test_compiled_and_eager_float32_agree(batch: Batch, device: torch.device) -> None:
    """Not only both close to what is right: their masks, too, are the same."""
    model = config()
    shape = (model.layers, 2, model.heads, POSITIONS, model.head_dim)
    trunk = Trunk(model).eval().requires_grad_(False)
    trunk.load_state_dict(batch.exact.state_dict())
    trunk.to(device)
    found = []
    for compiled in COMPILERS.values():
        memory = torch.zeros(shape, device=device)
        slots = OnDevice(SlottedTrunk(trunk, memory, SLOT, compiled), memory, torch.float32, 1e4)
        hidden_BC = encoded(batch, slots)
        scored = slots.trunk.candidates(slots(batch.candidate_BKC), slots.begins, slots.numbers(*LENGTHS))
        found.append(torch.cat([hidden_BC.flatten(), scored.flatten()]))
    assert (found[0] - found[1]).abs().max() < 1e-4
