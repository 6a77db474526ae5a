"""The GPU's engine, on a CPU without capture or compilation, against the CPU's engine and offline PyTorch."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.pool import Handle, no_slot
from tests.conftest import Exported
from tests.support.node_chain import (
    Chain,
    Tensors,
    assert_same_answers,
    sources,
    stored,
    users_of_many_lengths,
)

POISON = 1e9
"""Large, and finite in all that comes of it: without the fused kernel, every position is computed before it
is hidden."""


def pool_of(chain: Chain) -> DeviceStorage:
    storage = chain.retrieval._histories.storage
    assert isinstance(storage, DeviceStorage)
    return storage


def storages(chain: Chain) -> Iterator[DeviceStorage]:
    """The pool, and the private memory that ranking recomputes in."""
    yield pool_of(chain)
    private = chain.ranking._histories.storage
    assert isinstance(private, DeviceStorage)
    yield private


def poison_all_but(chain: Chain, handles: list[Handle]) -> None:
    """Spoil every position and hidden state that is in no slot of these handles."""
    for storage in storages(chain):
        kept = [one for one in handles if storage is pool_of(chain)]
        position_P = torch.ones(storage.map.positions, dtype=torch.bool)
        row_R = torch.ones(storage.map.rows, dtype=torch.bool)
        for one in kept:
            begin = storage.map.begin(one.slot)
            position_P[begin : begin + one.length] = False
            row_R[one.slot] = False
        storage.values_L2HPD[:, :, :, position_P] = POISON
        storage.hidden_RC[row_R] = POISON


def test_both_engines_answer_alike_in_batches_beyond_the_largest_shape(
    make_gpu_chain: Callable[..., Chain], make_chain: Callable[..., Chain], exported: Exported
) -> None:
    request = stored(exported, users_of_many_lengths(exported))
    expected = make_chain()(request)
    chain = make_gpu_chain(pool_slots=8, batches=(1, 4))
    for source in ("prefill", "prefix"):
        answers = chain(request)
        assert sources(answers) == [source] * 8
        assert_same_answers(answers, expected)


def test_more_rows_without_a_slot_than_spare_slots_are_refused(
    make_gpu_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_gpu_chain(pool_slots=1, batches=(1, 2))
    with pytest.raises(ValueError, match=r"^slot is 3; allowed: 0 to 2$"):
        chain(stored(exported, [1, 2, 3, 4]))
    assert sources(chain(stored(exported, [1, 2, 3]))) == ["prefill", "recomputed", "recomputed"]


def test_nothing_outside_live_slots_is_read(make_gpu_chain: Callable[..., Chain], exported: Exported) -> None:
    # Three rows in a shape of four, of which one slot is found and the others are recomputed.
    request = stored(exported, users_of_many_lengths(exported)[:3])
    chain = make_gpu_chain(pool_slots=1)
    expected = chain(request)
    poison_all_but(chain, [])
    chain.restart_retrieval()
    poison_all_but(chain, [])
    answers = chain(request)
    assert sources(answers) == sources(expected) == ["prefill", "recomputed", "recomputed"]
    assert_same_answers(answers, expected)
    tensors = chain.before_ranking(request)
    poison_all_but(chain, chain.handles(tensors)[:1])
    answers = chain.rank(tensors)
    assert sources(answers) == ["prefix", "recomputed", "recomputed"]
    assert_same_answers(answers, expected)


def test_rows_of_an_earlier_larger_batch_leave_nothing_behind(
    make_gpu_chain: Callable[..., Chain], exported: Exported
) -> None:
    users = users_of_many_lengths(exported)
    chain, fresh = make_gpu_chain(pool_slots=8), make_gpu_chain(pool_slots=8)
    chain(stored(exported, users[:4]))
    storage = pool_of(chain)
    others = storage.values_L2HPD[:, :, :, : storage.map.begin(4)]
    hidden = storage.hidden_RC[:4]
    before = others.clone(), hidden.clone()
    later = stored(exported, users[4:7])
    assert_same_answers(chain(later), fresh(later))
    assert torch.equal(others, before[0])
    assert torch.equal(hidden, before[1])


def test_candidates_do_not_depend_on_the_batch(
    make_gpu_chain: Callable[..., Chain], exported: Exported
) -> None:
    chain = make_gpu_chain()
    tensors = chain.before_ranking(stored(exported, users_of_many_lengths(exported)[:4]))
    together = chain.rank(tensors)
    for row in range(4):
        alone = chain.rank({name: tensor[row : row + 1] for name, tensor in tensors.items()})
        found, expected = by_item(alone, 0), by_item(together, row)
        assert found.keys() == expected.keys()
        assert max(np.abs(found[item] - expected[item]).max() for item in found) < 1e-6


def by_item(answers: Tensors, row: int) -> dict[int, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Action probabilities of one row by item."""
    return dict(zip(answers["ITEM_IDS"][row].tolist(), answers["ACTION_PROBS"][row], strict=True))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"precision": "bfloat16"}, 0.05),
        ({"precision": "float8"}, 0.15),
        ({"item_precision": "bfloat16"}, 0.02),
        ({"item_precision": "int8"}, 0.02),
    ],
    ids=str,
)
def test_fewer_bits_answer_nearly_alike(
    make_gpu_chain: Callable[..., Chain],
    make_chain: Callable[..., Chain],
    exported: Exported,
    options: dict[str, str],
    tolerance: float,
) -> None:
    """For the same candidates, over its own slots and over what it recomputes."""
    exact, rounded = make_chain(), make_gpu_chain(batches=(2,), **options)
    request = stored(exported, users_of_many_lengths(exported)[:2], 128)
    tensors = exact.before_ranking(request)
    expected = exact.rank(tensors)
    handles = rounded.handles(rounded.before_ranking(request))
    for given, source in ((handles, "prefill"), ([no_slot(1)] * 2, "recomputed")):
        answers = rounded.rank(rounded.with_handles(tensors, given))
        assert sources(answers) == [source] * 2
        for row in range(2):
            found, right = by_item(answers, row), by_item(expected, row)
            assert found.keys() == right.keys()
            off = max(np.abs(found[item] - right[item]).max() for item in right)
            assert 0 < off < tolerance
