"""The search of the second ranker on a CPU against PyTorch's product and `topk`, which it gives the same as.

Shapes: N events, C candidates, E width, K nearest.
"""

import os
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, median_ms, run_sweeps
from unipinrec.models.transact.search import multiplies_integers, nearest, quantised

CANDIDATES, COUNT, WIDTH = 256, 64, 32
EVENTS = (1_000, 4_000, 16_000)
ROUNDS = 5


def nearest_events(seconds: float, most: int | None, tell: Callable[[str], None]) -> SweepReport:
    """Measure over `most` of the lengths, and the longest of these on one core and on all."""
    lengths = EVENTS[:most]

    cores = len(os.sched_getaffinity(0))
    sweeps = [
        Sweep("events of a history", lengths, lambda events: compare(events, seconds, cores)),
        Sweep("threads", tuple({1, cores}), lambda threads: compare(lengths[-1], seconds, threads)),
    ]
    settings = {
        "preset": f"{CANDIDATES} candidates",
        "found for each": COUNT,
        "width of random vectors": WIDTH,
        "integer products": multiplies_integers(),
        "seconds": seconds,
    }
    return run_sweeps("nearest", settings, sweeps, tell)


def compare(events: int, seconds: float, threads: int) -> Measures:
    """Return the time of both in turn, its share of PyTorch's, and what int8 finds of that."""
    draw = torch.Generator().manual_seed(0)
    vector_NE, candidate_CE = (
        F.normalize(torch.randn(count, WIDTH, generator=draw)) for count in (events, CANDIDATES)
    )
    given = (
        quantised(vector_NE),
        torch.arange(events),
        torch.tensor([[0, events]]),
        quantised(candidate_CE),
        torch.tensor([0, CANDIDATES]),
        COUNT,
    )
    taken: dict[str, list[float]] = {"search, ms": [], "product and topk, ms": []}
    for _ in range(ROUNDS):
        calls = (lambda: nearest(*given), lambda: (candidate_CE @ vector_NE.T).topk(COUNT))
        for times, call in zip(taken.values(), calls, strict=True):
            times.append(median_ms(call, seconds / ROUNDS, threads))
    share = [ours / theirs for ours, theirs in zip(*taken.values(), strict=True)]
    found_CK = nearest(*given).event_CK
    right_CK = (candidate_CE @ vector_NE.T).topk(COUNT).indices
    recall = (found_CK[:, :, None] == right_CK[:, None]).any(-1).double().mean().item()
    return {name: statistics.median(ms) for name, ms in taken.items()} | {
        "median, share": statistics.median(share),
        "largest, share": max(share),
        "recall, share": recall,
    }
