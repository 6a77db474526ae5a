"""The nodes called one after another in one process: what a request costs without a server.

Processes are spawned for it, with as many threads as a node has, so that nothing of the caller weighs in.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import torch

from benchmarks.nodes import nodes_in_process
from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.plan import BenchPlan, Kind
from benchmarks.unified.stacks import SEPARATE, UNIFIED
from benchmarks.unified.traffic import COLD_USERS, traffic_plan
from ensemble.graph import MODEL_REPOSITORY, Tensors, call_in_process, ensembles_in
from loadtest.sender import tensors_of

WARM_UP = 3
"""Calls before the first that counts: TorchScript optimises a graph while it runs for the first times."""

START_TIMEOUT_S = 120.0
"""For every process to load the bundle, or to come to the end of a run."""

Latencies = dict[tuple[str, int], list[float]]
"""Milliseconds of every call of one process, by stack and users in a request."""


def run_in_process(
    plan: BenchPlan, made: RandomBundle, batches: Sequence[int], processes: int
) -> list[Latencies]:
    """Run the plan's stacks with each of the batches, users in one request, one after another: the server
    computes queued requests together too. All processes are at the same stack at any time."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        barrier = manager.Barrier(processes, timeout=START_TIMEOUT_S)
        return list(pool.map(partial(_run, plan, made, batches, barrier), range(processes)))


def median_ms(latencies: Sequence[Latencies], stack: str) -> float:
    """Return the median milliseconds of a request of one user."""
    return statistics.median(taken for calls in latencies for taken in calls[stack, 1])


def best_rate(latencies: Sequence[Latencies], stack: str) -> tuple[float, int]:
    """Return the users answered a second by all processes together, with the batch that makes it most."""
    batches = [batch for name, batch in latencies[0] if name == stack]
    return max(
        (sum(1e3 * batch / statistics.fmean(calls[stack, batch]) for calls in latencies), batch)
        for batch in batches
    )


def _run(
    plan: BenchPlan, made: RandomBundle, batches: Sequence[int], barrier: Barrier, worker: int
) -> Latencies:
    settings, graphs = plan.load.settings(made.folder), ensembles_in(MODEL_REPOSITORY)
    torch.set_num_threads(settings.threads)
    with nodes_in_process(settings) as nodes:
        call = call_in_process(nodes)
        unified, separate = (partial(graphs[name].run, call=call) for name in (UNIFIED, SEPARATE))
        chains = {stack: unified if stack.startswith("unified") else separate for stack in plan.stacks}
        return {
            (stack, batch): _timed(plan, made, stack, batch, worker, chain, barrier.wait)
            for stack, chain in chains.items()
            for batch in batches
        }


def _timed(
    plan: BenchPlan,
    made: RandomBundle,
    stack: str,
    batch: int,
    worker: int,
    chain: Callable[[Tensors], Tensors],
    await_others: Callable[[], object],
) -> list[float]:
    kind = Kind.COLD if stack.endswith(Kind.COLD) else Kind.WARM
    users = COLD_USERS if kind is Kind.COLD else plan.load.warm_users
    # Other users in each process and for each batch.
    seed = int(np.random.SeedSequence([plan.load.seed, worker, batch]).generate_state(1)[0])
    traffic = traffic_plan(made, kind, folder=plan.out, users=users, seed=seed).open_traffic(0)
    # Cold users come once, and the separate stack keeps nothing that a first pass could fill.
    if stack == "unified_warm":
        for visit in traffic.first_pass(users):
            chain(tensors_of([visit], made.num_results))
    taken: list[float] = []
    ends = float("inf")
    while len(taken) <= WARM_UP or time.perf_counter() < ends:
        visits = [traffic.next() for _ in range(batch)]
        request = tensors_of(visits, made.num_results)
        began = time.perf_counter()
        chain(request)
        taken.append(1e3 * (time.perf_counter() - began))
        for visit in visits:
            traffic.done(visit)
        if len(taken) == WARM_UP:
            await_others()
            ends = time.perf_counter() + plan.in_process_seconds
    return taken[WARM_UP:]
