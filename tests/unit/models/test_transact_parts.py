"""Parts side by side: their results in order, and every thread keeps its number of PyTorch's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from unipinrec.models.transact.parts import on_one_thread, side_by_side


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_keep_their_order_and_the_caller_its_threads(threads: int) -> None:
    parts = [(torch.full((2,), float(place)), torch.ones(2)) for place in range(20)]
    found = side_by_side(torch.add, parts)
    assert [tensor.tolist() for tensor in found] == [[place + 1.0] * 2 for place in range(20)]
    assert torch.get_num_threads() == threads


def test_a_part_has_one_thread(threads: int) -> None:
    def inside(part: Tensor) -> Tensor:
        return part + torch.get_num_threads()

    zeros = torch.zeros(1)
    assert {int(tensor) for tensor in side_by_side(inside, [(zeros,)] * 6)} == {1}
    assert torch.get_num_threads() == threads


def test_on_one_thread_parts_still_have_as_many(threads: int) -> None:
    meeting = threading.Barrier(threads, timeout=30)

    def inside(part: Tensor) -> Tensor:
        meeting.wait()
        return part + torch.get_num_threads()

    with on_one_thread():
        assert torch.get_num_threads() == 1
        found = side_by_side(inside, [(torch.zeros(1),)] * threads)
        assert torch.get_num_threads() == 1
    assert [int(tensor) for tensor in found] == [1] * threads
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("threads")
def test_parts_of_a_part_are_computed_one_after_another() -> None:
    def inside(part: Tensor) -> Tensor:
        caller = threading.get_ident()
        found = side_by_side(lambda inner: inner + (threading.get_ident() == caller), [(part,)] * 3)
        return torch.cat(found)

    assert torch.cat(side_by_side(inside, [(torch.zeros(1),)] * 4)).tolist() == [1.0] * 12


@pytest.mark.usefixtures("threads")
def test_what_a_part_raises_is_raised() -> None:
    def wrong(part: Tensor) -> Tensor:
        raise ValueError(f"part of {len(part)}")

    with pytest.raises(ValueError, match="part of 3"):
        side_by_side(wrong, [(torch.ones(3),)] * 4)
