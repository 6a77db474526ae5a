"""The nodes called one after another in one process: what a request costs without a server.

Processes are spawned for it, with as many threads as a node has, so that nothing of the caller weighs in.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch

from benchmarks.caller import RequestMaker, Tensors
from benchmarks.target import SEPARATE, UNIFIED
from benchmarks.workload import ColdTraffic, EventSpace, Traffic, WarmTraffic
from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.graph import MODEL_REPOSITORY, call_in_process, ensembles_in
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import Node
from ensemble.nodes.ranking import RankingNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.scoring import ScoringNode
from ensemble.server.runtime_folder import claim_folder, remove_folder
from ensemble.settings import ServingSettings

INSTANCE = "retrieval_0"
WARM_UP = 3
"""Calls before the first that counts: TorchScript optimises a graph while it runs for the first times."""

START_TIMEOUT_S = 120.0
"""For every process to load the bundle, or to come to the end of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcessPlan:
    """What each process runs."""

    settings: ServingSettings
    num_results: int
    stacks: tuple[str, ...]
    """As in `report.STACKS`, one after another."""
    batches: tuple[int, ...]
    """Users in one request, one after another: the server computes queued requests together too."""
    seconds: float
    """For each stack with each of the batches."""
    warm_users: int
    seed: int


Ensemble = Callable[[Tensors], Tensors]
"""What answers a request as an ensemble of the repository does, in this process."""

Latencies = dict[tuple[str, int], list[float]]
"""Milliseconds of every call of one process, by stack and users in a request."""


def run_in_process(plan: InProcessPlan, processes: int) -> list[Latencies]:
    """Run the plan in so many processes at once, all of which are at the same stack at any time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_share, initargs=(barrier,)) as pool:
        return list(pool.map(_run, [plan] * processes, range(processes)))


def median_ms(latencies: Sequence[Latencies], stack: str) -> float:
    """Of a request of one user."""
    return statistics.median(taken for one in latencies for taken in one[stack, 1])


def best_qps(latencies: Sequence[Latencies], stack: str) -> tuple[float, int]:
    """Users answered a second by all processes together, with the batch that makes it most."""
    batches = [batch for name, batch in latencies[0] if name == stack]
    return max((total_qps(latencies, stack, batch), batch) for batch in batches)


def total_qps(latencies: Sequence[Latencies], stack: str, batch: int) -> float:
    """Users answered a second by all processes together."""
    return sum(1e3 * batch * len(one[stack, batch]) / sum(one[stack, batch]) for one in latencies)


_barrier: Barrier | None = None


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _run(plan: InProcessPlan, worker: int) -> Latencies:
    torch.set_num_threads(plan.settings.threads)
    with _chains(plan) as chains:
        return {
            (stack, batch): _timed(plan, stack, batch, worker, chains[stack.partition("_")[0]])
            for stack in plan.stacks
            for batch in plan.batches
        }


@contextmanager
def _chains(plan: InProcessPlan) -> Iterator[Mapping[str, Ensemble]]:
    """Both stacks, with a pool of their own."""
    folder, lock = claim_folder(plan.settings.runtime_dir)
    settings = plan.settings.model_copy(update={"runtime_dir": folder})
    loaded = LoadedBundle.open(settings.bundle)
    engine = CpuEngine(loaded, settings.kv_precision)
    unified = RetrievalNode(loaded, settings, engine, INSTANCE)
    history, ann = HistoryNode(loaded, settings), AnnNode(loaded, settings)
    ranking, separate = RankingNode(loaded, settings, engine), RetrievalNode(loaded, settings, engine)
    try:
        nodes: dict[str, Node[Any, Any]] = {
            "history": history,
            "retrieval": unified,
            "retrieval_separate": separate,
            "ann": ann,
            "ranking": ranking,
            "scoring": ScoringNode(loaded, settings),
        }
        graphs, call = ensembles_in(MODEL_REPOSITORY), call_in_process(nodes)
        yield {
            stack: partial(graphs[name].run, call=call)
            for stack, name in (("unified", UNIFIED), ("separate", SEPARATE))
        }
    finally:
        for node in (history, unified, separate, ann, ranking):
            node.close()
        remove_folder(folder)
        os.close(lock)


def _timed(plan: InProcessPlan, stack: str, batch: int, worker: int, chain: Ensemble) -> list[float]:
    loaded = LoadedBundle.open(plan.settings.bundle)
    make = RequestMaker(loaded.vocabulary().item_id_V, plan.num_results)
    traffic = _traffic(plan, stack, (worker, batch), EventSpace.of(loaded.manifest))
    # The separate stack keeps nothing that a first pass could fill.
    if isinstance(traffic, WarmTraffic) and stack.startswith("unified"):
        for visit in traffic.first_pass():
            chain(make(visit))
    for _ in range(WARM_UP):
        _call(chain, make, traffic, batch)
    assert _barrier is not None  # noqa: S101
    _barrier.wait(START_TIMEOUT_S)
    taken: list[float] = []
    ends = time.perf_counter() + plan.seconds
    while not taken or time.perf_counter() < ends:
        taken.append(_call(chain, make, traffic, batch))
    return taken


def _call(chain: Ensemble, make: RequestMaker, traffic: Traffic, batch: int) -> float:
    """Milliseconds of a request of the next visits."""
    visits = [traffic.take() for _ in range(batch)]
    request = make(*visits)
    began = time.perf_counter()
    chain(request)
    took = time.perf_counter() - began
    for visit in visits:
        traffic.give_back(visit)
    return 1e3 * took


def _traffic(
    plan: InProcessPlan, stack: str, numbers: tuple[int, int], space: EventSpace
) -> ColdTraffic | WarmTraffic:
    """Other users in each process and for each batch."""
    seed = int(np.random.SeedSequence([plan.seed, *numbers]).generate_state(1)[0])
    if stack.endswith("cold"):
        return ColdTraffic(space, seed)
    return WarmTraffic(space, seed, plan.warm_users)
