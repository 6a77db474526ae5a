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

    def on_threads(threads: str) -> Measures:
        torch.set_num_threads(int(threads))
        return compare(lengths[-1], seconds)

    cores = dict.fromkeys(("1", str(len(os.sched_getaffinity(0)))))
    sweeps = [
        Sweep("events of a history", lengths, lambda events: compare(events, seconds)),
        Sweep("threads", tuple(cores), on_threads),
    ]
    settings = {
        "preset": f"{CANDIDATES} candidates",
        "found for each": COUNT,
        "width of random vectors": WIDTH,
        "integer products": multiplies_integers(),
        "seconds": seconds,
    }
    return run_sweeps("nearest", settings, sweeps, tell)


def compare(events: int, seconds: float) -> Measures:
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
        taken["search, ms"].append(median_ms(lambda: nearest(*given), seconds / ROUNDS))
        taken["product and topk, ms"].append(
            median_ms(lambda: (candidate_CE @ vector_NE.T).topk(COUNT), seconds / ROUNDS)
        )
    share = [ours / theirs for ours, theirs in zip(*taken.values(), strict=True)]
    found_CK = nearest(*given).event_CK
    right_CK = (candidate_CE @ vector_NE.T).topk(COUNT).indices
    recall = (found_CK[:, :, None] == right_CK[:, None]).any(-1).double().mean().item()
    return {name: statistics.median(ms) for name, ms in taken.items()} | {
        "median, share": statistics.median(share),
        "largest, share": max(share),
        "recall, share": recall,
    }
