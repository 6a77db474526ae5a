"""Passes over slots of one memory against the passes over exact lengths."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from unipinrec.models.common.slot_attention import BLOCK, causal_mask, generation_mask, prefix_mask
from unipinrec.models.common.slotted import SlottedTrunk
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.unified.config import UnifiedConfig, preset

SLOTS, SLOT = 4, 2 * BLOCK
POSITIONS = SLOTS * SLOT + 2 * BLOCK
"""Slots, a block of scratch memory, and the null block."""
SCRATCH = SLOTS * SLOT
EXACT = 1e-12
POISON = 1e30
"""Large and finite: without the fused kernel, every position is computed before it is hidden."""


def config() -> UnifiedConfig:
    sizes = preset("tiny", num_items=10, num_actions=2).model_dump()
    return UnifiedConfig.model_validate(sizes | {"layers": 3, "max_history": 250, "window_block": 8})


@pytest.fixture
def trunk() -> Trunk:
    torch.manual_seed(3)
    return Trunk(config()).double().eval()


def new_memory(fill: float = 0.0) -> Tensor:
    model = config()
    return torch.full((model.layers, 2, model.heads, POSITIONS, model.head_dim), fill, dtype=torch.float64)


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, config().width, dtype=torch.float64)


def columns(*values: list[int]) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


def exact(trunk: Trunk, token_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [N, C] and keys and values [L, 2, H, N, D] of one whole history."""
    hidden_1NC, past_L21HND = trunk.history(token_NC[None])
    return hidden_1NC[0], past_L21HND[:, :, 0]


@pytest.mark.parametrize("poison", [0.0, POISON])
@torch.inference_mode()
def test_continuing_slots_equals_one_pass_over_each_history(trunk: Trunk, poison: float) -> None:
    memory = new_memory(poison)
    slotted = SlottedTrunk(trunk, memory, SLOT)
    lengths, slots = [1, 130, 250], [2, 0, 3]
    histories = [tokens(length) for length in lengths]
    cached = [0] * len(slots)
    for upto in ([1, 40, 128], [1, 128, 129], lengths):
        new = [min(end, length) - past for end, length, past in zip(upto, lengths, cached, strict=True)]
        rows = [row for row, count in enumerate(new) if count > 0]
        padded = torch.full((len(rows), 130, config().width), 5.0, dtype=torch.float64)
        for place, row in enumerate(rows):
            padded[place, : new[row]] = histories[row][cached[row] : cached[row] + new[row]]
        hidden_BC = slotted.continued(
            padded,
            *columns(
                [slots[row] * SLOT for row in rows], [cached[row] for row in rows], [new[row] for row in rows]
            ),
        )
        for place, row in enumerate(rows):
            cached[row] += new[row]
            expected = exact(trunk, histories[row][: cached[row]])[0][-1]
            assert (hidden_BC[place] - expected).abs().max() < EXACT
    for history, slot, length in zip(histories, slots, lengths, strict=True):
        kept = memory[:, :, :, slot * SLOT : slot * SLOT + length]
        assert (kept - exact(trunk, history)[1]).abs().max() < EXACT
    assert (memory[:, :, :, SLOT : 2 * SLOT] == poison).all(), "a slot of nobody in the batch was written"


@pytest.mark.parametrize("length", [1, 100, 128, 250])
@torch.inference_mode()
def test_candidates_over_slots_equal_candidates_over_exact_caches(trunk: Trunk, length: int) -> None:
    memory = new_memory(POISON)
    histories = [tokens(length), tokens(33)]
    pasts = [exact(trunk, history)[1] for history in histories]
    for slot, past in zip((3, 1), pasts, strict=True):
        memory[:, :, :, slot * SLOT : slot * SLOT + past.size(3)] = past
    candidate_BKC = tokens(2, 140)
    begin_B, length_B = columns([3 * SLOT, SLOT], [length, 33])
    found = SlottedTrunk(trunk, memory, SLOT).candidates(candidate_BKC, begin_B, length_B)
    # The padded pass of training is a computation of its own, without any cached attention.
    for row, past in enumerate(pasts):
        hidden_1N = torch.zeros(1, past.size(3), dtype=torch.bool)
        expected = trunk.candidates(candidate_BKC[row : row + 1], past.unsqueeze(2), hidden_1N)
        assert (found[row] - expected[0]).abs().max() < EXACT


@pytest.mark.parametrize("length", [1, 127, 128, 200])
@torch.inference_mode()
def test_generated_tokens_see_their_own_steps_and_leave_the_slot_alone(trunk: Trunk, length: int) -> None:
    memory = new_memory(POISON)
    history, steps = tokens(length), tokens(3)
    memory[:, :, :, SLOT : SLOT + length] = exact(trunk, history)[1]
    before = memory[:, :, :, :SCRATCH].clone()
    slotted = SlottedTrunk(trunk, memory, SLOT)
    for step in range(len(steps)):
        found = slotted.generated(steps[None, step : step + 1], *columns([SLOT], [length], [SCRATCH], [step]))
        expected = exact(trunk, torch.cat([history, steps[: step + 1]]))[0][-1]
        assert (found[0] - expected).abs().max() < EXACT
    assert torch.equal(memory[:, :, :, :SCRATCH], before)


@torch.inference_mode()
def test_the_block_that_a_history_ends_in_holds_nothing_of_others(trunk: Trunk) -> None:
    memory = new_memory(POISON)
    SlottedTrunk(trunk, memory, SLOT).continued(tokens(1, 40), *columns([0], [0], [30]))
    assert (memory[:, :, :, 30:BLOCK] == 0).all()
    assert (memory[:, :, :, BLOCK:SLOT] == POISON).all(), "more than one block was cleared"


def seen(mask: BlockMask, begin: list[int]) -> Tensor:
    """What each query of each row sees, [B, Q, P], from the mask's rule alone."""
    query, position = torch.arange(mask.seq_lengths[0])[:, None], torch.arange(mask.seq_lengths[1])
    head = torch.tensor(0)
    rows = [mask.mask_mod(torch.tensor(row), head, query, position) for row in range(len(begin))]
    return torch.stack([row.expand(mask.seq_lengths) for row in rows])


def dense_causal(begin: list[int], cached: list[int], count: list[int], queries: int) -> Tensor:
    """The same, written down position by position; padding sees what its row's last token sees."""
    dense = torch.zeros(len(begin), queries, POSITIONS, dtype=torch.bool)
    for row, (first, past, new) in enumerate(zip(begin, cached, count, strict=True)):
        for query in range(queries):
            dense[row, query, first : first + past + min(query + 1, new)] = True
    return dense


def blocks_of(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [B, I, J] of which some query sees something, and those that every query sees whole."""
    rows, queries, _ = dense.shape
    filled = -(-queries // BLOCK) * BLOCK
    padded = torch.cat([dense, dense[:, -1:].expand(-1, filled - queries, -1)], dim=1)
    tiles = padded.view(rows, -1, BLOCK, POSITIONS // BLOCK, BLOCK)
    return tiles.any(4).any(2), tiles.all(4).all(2)


def listed(mask: BlockMask) -> tuple[Tensor, Tensor]:
    """Blocks [B, I, J] that the kernel will read, and those for which it skips the rule."""
    found = []
    for count, index in (
        (mask.kv_num_blocks, mask.kv_indices),
        (mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        assert count is not None
        assert index is not None
        one = torch.zeros(*count.shape, POSITIONS // BLOCK, dtype=torch.int64)
        for place in torch.cartesian_prod(*(torch.arange(size) for size in count.shape)):
            for block in index[tuple(place)][: count[tuple(place)]]:
                one[(*place, block)] += 1
        assert one.max() <= 1, "a block is listed twice"
        found.append(one[:, 0].bool())
    assert not (found[0] & found[1]).any(), "a block is listed as seen in part and as seen whole"
    return found[0] | found[1], found[1]


@pytest.mark.parametrize("queries", [1, 100, 128, 150, 256])
@pytest.mark.parametrize("filled", [1.0, 0.5, 0.0])
def test_causal_masks_list_the_blocks_of_a_dense_mask(queries: int, filled: float) -> None:
    begin = [slot * SLOT for slot in (1, 0, 2, 3)]
    count = [max(1, round(filled * queries) - row) for row in range(len(begin))]
    cached = [min(past, SLOT - new) for past, new in zip([0, 5, 127, 100], count, strict=True)]
    dense = dense_causal(begin, cached, count, queries)
    mask = causal_mask(*columns(begin, cached, count), queries, SLOT, POSITIONS)
    assert torch.equal(seen(mask, begin), dense)
    # A block of queries that is padding alone reads nothing.
    for row, new in enumerate(count):
        dense[row, -(-new // BLOCK) * BLOCK :] = False
    read, whole = listed(mask)
    some, every = blocks_of(dense)
    assert torch.equal(read, some)
    assert not (whole & ~every).any()


@pytest.mark.parametrize("queries", [1, 128, 300])
def test_prefix_masks_list_the_blocks_of_a_dense_mask(queries: int) -> None:
    begin, reach = [SLOT, 0, 2 * SLOT, 3 * SLOT], [1, 128, 129, 256]
    dense = torch.zeros(len(begin), queries, POSITIONS, dtype=torch.bool)
    for row, (first, length) in enumerate(zip(begin, reach, strict=True)):
        dense[row, :, first : first + length] = True
    mask = prefix_mask(torch.tensor(begin), torch.tensor(reach), queries, SLOT, POSITIONS)
    assert torch.equal(seen(mask, begin), dense)
    assert [tensor.tolist() for tensor in listed(mask)] == [tensor.tolist() for tensor in blocks_of(dense)]


def test_generation_masks_list_the_blocks_of_a_dense_mask() -> None:
    begin, length, step = [SLOT, 0, 2 * SLOT], [1, 128, 200], [0, 3, 5]
    dense = torch.zeros(len(begin), 1, POSITIONS, dtype=torch.bool)
    for row, (first, past, made) in enumerate(zip(begin, length, step, strict=True)):
        dense[row, 0, first : first + past] = True
        dense[row, 0, SCRATCH : SCRATCH + made + 1] = True
    scratch_B = torch.full((len(begin),), SCRATCH)
    mask = generation_mask(*columns(begin, length), scratch_B, torch.tensor(step), SLOT, POSITIONS)
    assert torch.equal(seen(mask, begin), dense)
    assert [tensor.tolist() for tensor in listed(mask)] == [tensor.tolist() for tensor in blocks_of(dense)]


@pytest.mark.slow
@torch.inference_mode()
def test_the_fused_kernel_reads_listed_blocks_alone() -> None:
    """The compiled kernel for CPUs follows the same lists, and meets no number of another slot."""
    query, memory = torch.randn(2, 2, 20, 16), torch.full((2, 2, POSITIONS, 16), float("nan"))
    memory[:, :, SLOT : SLOT + 256] = torch.randn(2, 2, 256, 16)
    memory[:, :, :BLOCK] = torch.randn(2, 2, BLOCK, 16)
    # Padding behind the second row's 4 tokens would reach into the next block, which holds anything.
    rows = ((SLOT, 130, 20), (0, 124, 4))
    mask = causal_mask(*(torch.tensor(column) for column in zip(*rows, strict=True)), 20, SLOT, POSITIONS)
    found = torch.compile(flex_attention)(query, memory[:1], memory[1:], block_mask=mask)
    for row, (begin, cached, count) in enumerate(rows):
        key, value = memory[:, :, begin : begin + cached + count]
        score = query[row, :, :count] @ key.transpose(1, 2) / 4
        hidden = torch.ones(count, cached + count, dtype=torch.bool).triu(cached + 1)
        expected = score.masked_fill(hidden, float("-inf")).softmax(-1) @ value
        assert (found[row, :, :count] - expected).abs().max() < 1e-5


@pytest.mark.slow
@torch.inference_mode()
def test_the_fused_kernel_reads_no_scratch_block_but_a_rows_own() -> None:
    memory = torch.full((2, 2, POSITIONS + BLOCK, 16), float("nan"))
    begin, length, scratch, step = [SLOT, 0], [130, 128], [SCRATCH, SCRATCH + BLOCK], [0, 2]
    for first, past, own in zip(begin, length, scratch, strict=True):
        whole = -(-past // BLOCK) * BLOCK
        memory[:, :, first : first + whole] = torch.randn(2, 2, whole, 16)
        memory[:, :, own : own + BLOCK] = torch.randn(2, 2, BLOCK, 16)
    mask = generation_mask(*columns(begin, length, scratch, step), SLOT, POSITIONS + BLOCK)
    query = torch.randn(2, 2, 1, 16)
    found = torch.compile(flex_attention)(query, memory[:1], memory[1:], block_mask=mask)
    for row in range(2):
        places = [*range(begin[row], begin[row] + length[row])]
        places += range(scratch[row], scratch[row] + step[row] + 1)
        key, value = memory[:, :, places]
        expected = (query[row] @ key.transpose(1, 2) / 4).softmax(-1) @ value
        assert (found[row] - expected).abs().max() < 1e-5
