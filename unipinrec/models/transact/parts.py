"""Parts of a computation side by side, each on one thread.

PyTorch's own threads meet after every operation: with many small ones, and where others want the processor,
they wait for each other most of the time. Here they meet once.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def side_by_side(compute: Callable[..., Tensor], parts: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return what is computed of each part, without gradients, on as many threads as PyTorch may use."""
    threads, given = torch.get_num_threads(), list(parts)
    if threads == 1 or len(given) == 1:
        return [compute(*part) for part in given]
    return list(_pool(threads).map(functools.partial(_computed, compute), given))


def _computed(compute: Callable[..., Tensor], part: tuple[Tensor, ...]) -> Tensor:
    # Whether gradients are wanted is a thread's own.
    with torch.inference_mode():
        return compute(*part)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    started = threading.Barrier(threads + 1)

    def start() -> None:
        # At its first operation a thread takes the common number, over what it was set to.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    # What a thread sets is its own number, and the one that later threads begin with.
    torch.set_num_threads(threads)
    return pool
