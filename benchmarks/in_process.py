"""The four nodes called one after another in one process: what a request costs without a server.

Processes are spawned for it, with as many threads as a node has, so that nothing of the caller weighs in.
"""

import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from benchmarks.caller import RequestMaker, Tensors
from benchmarks.workload import ColdTraffic, EventSpace, Traffic, WarmTraffic
from ensemble.ann import AnnNode
from ensemble.history import HistoryNode
from ensemble.loaded_bundle import LoadedBundle
from ensemble.node import Node
from ensemble.ranking import RankingNode
from ensemble.retrieval import RetrievalNode
from ensemble.settings import ServingSettings

INSTANCE = "retrieval_0"
WARM_UP = 5
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
    seconds: float
    """For each of them."""
    warm_users: int
    seed: int


class NodeChain:
    """What Triton does between the nodes: renames tensors and passes them on."""

    def __init__(self, nodes: Sequence[Node[Any, Any]]) -> None:
        self._nodes = nodes

    def __call__(self, request: Tensors) -> Tensors:
        """One request, through all nodes."""
        tensors = dict(request)
        for node in self._nodes:
            made = node.pack(node.run(node.parse(tensors)))
            tensors |= made | {name.removeprefix("RESOLVED_"): tensor for name, tensor in made.items()}
        return tensors


Latencies = dict[str, list[float]]
"""Milliseconds of every request, by stack."""


def run_in_process(plan: InProcessPlan, processes: int) -> list[Latencies]:
    """Run the plan in so many processes at once, all of which are at the same stack at any time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_share, initargs=(barrier,)) as pool:
        return list(pool.map(_run, [plan] * processes, range(processes)))


def median_ms(latencies: Sequence[Latencies], stack: str) -> float:
    """Of one request."""
    return statistics.median(taken for one in latencies for taken in one[stack])


def total_qps(latencies: Sequence[Latencies], stack: str) -> float:
    """Requests a second of all processes together."""
    return sum(1e3 * len(one[stack]) / sum(one[stack]) for one in latencies)


_barrier: Barrier | None = None


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _run(plan: InProcessPlan, worker: int) -> Latencies:
    torch.set_num_threads(plan.settings.threads)
    with _chains(plan) as chains:
        return {stack: _timed(plan, stack, worker, chains[_architecture(stack)]) for stack in plan.stacks}


def _architecture(stack: str) -> str:
    return stack.partition("_")[0]


@contextmanager
def _chains(plan: InProcessPlan) -> Iterator[Mapping[str, NodeChain]]:
    """Both stacks, with a pool of their own."""
    base = plan.settings.runtime_dir
    folder = Path(tempfile.mkdtemp(prefix=f"{base.name}-in-process-", dir=base.parent))
    settings = plan.settings.model_copy(update={"runtime_dir": folder})
    loaded = LoadedBundle.open(settings.bundle)
    unified = RetrievalNode(loaded, settings, INSTANCE)
    history, ann = HistoryNode(loaded, settings), AnnNode(loaded, settings)
    ranking, separate = RankingNode(loaded, settings), RetrievalNode(loaded, settings)
    try:
        yield {
            "unified": NodeChain([history, unified, ann, ranking]),
            "separate": NodeChain([history, separate, ann, ranking]),
        }
    finally:
        for node in (history, unified, separate, ann, ranking):
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


def _timed(plan: InProcessPlan, stack: str, worker: int, chain: NodeChain) -> list[float]:
    loaded = LoadedBundle.open(plan.settings.bundle)
    make = RequestMaker(loaded.vocabulary().item_id_V, plan.num_results)
    traffic = _traffic(plan, stack, worker, EventSpace.of(loaded.manifest))
    # The separate stack keeps nothing that a first pass could fill.
    if isinstance(traffic, WarmTraffic) and stack.startswith("unified"):
        for visit in traffic.first_pass():
            chain(make(visit))
    for _ in range(WARM_UP):
        _call(chain, make, traffic)
    assert _barrier is not None  # noqa: S101
    _barrier.wait(START_TIMEOUT_S)
    taken: list[float] = []
    ends = time.perf_counter() + plan.seconds
    while not taken or time.perf_counter() < ends:
        taken.append(_call(chain, make, traffic))
    return taken


def _call(chain: NodeChain, make: RequestMaker, traffic: Traffic) -> float:
    """Milliseconds of the next visit."""
    visit = traffic.take()
    request = make(visit)
    began = time.perf_counter()
    chain(request)
    took = time.perf_counter() - began
    traffic.give_back(visit)
    return 1e3 * took


def _traffic(plan: InProcessPlan, stack: str, worker: int, space: EventSpace) -> ColdTraffic | WarmTraffic:
    seed = 1_000 * plan.seed + worker
    if stack.endswith("cold"):
        return ColdTraffic(space, seed)
    return WarmTraffic(space, seed, plan.warm_users)
