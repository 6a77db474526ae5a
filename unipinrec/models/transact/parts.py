"""Parts of a computation side by side, each on one thread.

PyTorch's own threads meet after every operation: with many small ones, and where others want the processor,
they wait for each other most of the time. Here they meet once.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import torch

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


class _Own(threading.local):
    """What each thread has of its own."""

    parts: int | None = None
    """How many parts are computed at once of what it computes; None: as many as PyTorch may use threads."""


_own = _Own()


def side_by_side(compute: Callable[[*Given], Made], parts: Iterable[tuple[*Given]]) -> list[Made]:
    """Return what is computed of each part, without gradients, on as many threads as PyTorch may use.

    The calling thread is one of them: it need not wait until others are awake.
    """
    given = list(parts)
    threads = min(_own.parts or torch.get_num_threads(), len(given))
    if threads < 2:
        return [compute(*part) for part in given]
    made: dict[int, Made] = {}
    places = itertools.count()

    def take_parts() -> None:
        # Whether gradients are wanted is a thread's own.
        with torch.inference_mode(), on_one_thread(parts=1):
            while (place := next(places)) < len(given):
                made[place] = compute(*given[place])

    others = [_pool(threads - 1).submit(take_parts) for _ in range(threads - 1)]
    try:
        take_parts()
    finally:
        for other in others:
            # One that is not awake yet would find nothing left.
            if not other.cancel():
                other.result()
    return [made[place] for place in range(len(given))]


@contextmanager
def on_one_thread(parts: int | None = None) -> Iterator[None]:
    """Have PyTorch compute on the calling thread alone, but for `parts` at once of `side_by_side`: as many as
    it might use threads, if not told."""
    threads, before = torch.get_num_threads(), _own.parts
    _own.parts = parts or before or threads
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        _own.parts = before
        if threads > 1:
            torch.set_num_threads(threads)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
