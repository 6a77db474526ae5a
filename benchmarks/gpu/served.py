"""Through Triton with the GPU profile: unified beside separate, arrivals at a constant rate, and answers.

Each starts a server anew. `ServerError` is raised if that fails, `NothingMeasuredError` if a stack answers
nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.answers import Asked, answer_check, check_answers, random_requests
from benchmarks.gpu.passing import follow
from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.measures import ratios, ratios_by_concurrency
from benchmarks.unified.plan import Kind, StackLoad
from benchmarks.unified.report import STACKS
from benchmarks.unified.stacks import SEPARATE, UNIFIED, Comparison, comparing
from ensemble.graph import MODEL_REPOSITORY, Tensors, call_server, ensembles_in
from loadtest.sender import tensors_of
from loadtest.traffic import Kind as Caller
from loadtest.traffic import Visit

Tell = Callable[[str], None]
"""Is told what runs next."""

START_TIMEOUT_S = 540.0
"""Compiling and capturing every shape takes minutes the first time; the compiler keeps what it made."""

RATE, RATE_STEPS = 80.0, 6
"""PinRec's rate, and the steps of its p50 of 40 ms and p90 of 65 ms on an NVIDIA L40S."""

LOAD = StackLoad(
    concurrencies=(1, 8, 32), rounds=2, seconds=3.0, ramp_s=0.5, open_seconds=40.0, warm_users=32
)


def compare_stacks(made: RandomBundle, log: Path, tell: Tell) -> dict[str, Any]:
    """Return all stacks in turn at every concurrency (`rows`), their `ratios`, the `stages` of a request by
    itself and at each stack's best rate, and what goes from node to node (`passing`)."""
    with _running(made, STACKS, LOAD, log, tell) as comparison:
        comparison.warm_up()
        comparison.run_rounds()
        closed = {stack: results.closed for stack, results in comparison.results.items()}
        visit = comparison.plan("unified_cold", Kind.COLD).open_traffic(0).next()
        with comparison.server.client() as client:
            graph, call = ensembles_in(MODEL_REPOSITORY)[UNIFIED], call_server(client, LOAD.timeout_s)
            request = tensors_of([visit], made.num_results)
            model = made.manifest.model
            positions = 1 + min(len(visit.history or ()), model.max_history)
            passing = follow(graph, request, call, model, positions)
        stages = [row for stack, found in comparison.results.items() for row in found.stages(stack)]
        over = {"ratios": ratios(closed), "ratios_by_concurrency": ratios_by_concurrency(closed)}
        return _found(made, comparison) | {"stages": stages, **over, "passing": passing}


def run_arrivals(made: RandomBundle, log: Path, tell: Tell) -> dict[str, Any]:
    """Return Poisson arrivals at `RATE`, of users whose histories are cached and of others."""
    stacks = [stack for stack in STACKS if stack.startswith("unified")]
    load = replace(LOAD, concurrencies=(LOAD.warm_users,))
    with _running(made, stacks, load, log, tell) as comparison:
        comparison.warm_up()
        comparison.run_schedule(stacks, [RATE])
        return _found(made, comparison)


def compare_answers(
    made: RandomBundle, log: Path, tell: Tell, requests: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """Return so many random requests, the answer of each compared with PyTorch on the device."""
    with (
        _running(made, ["unified_random"], LOAD, log, tell) as comparison,
        comparison.server.client() as client,
    ):
        call = call_server(client, LOAD.timeout_s)

        def send(asked: Asked) -> Tensors:
            history, num_results = asked
            visit = Visit(Caller.RETURNING, history.user_id, history)
            return call(UNIFIED, tensors_of([visit], num_results))

        asked, check = random_requests(made, seed), answer_check(made, device)
        return _described(made, comparison) | check_answers(send, asked, check, requests, tell)


@contextmanager
def _running(
    made: RandomBundle, stacks: Sequence[str], load: StackLoad, log: Path, tell: Tell
) -> Iterator[Comparison]:
    tell("starting the server (minutes: it compiles and captures every shape)")
    models = {stack: SEPARATE if stack.startswith("separate") else UNIFIED for stack in stacks}
    settings, limit_s = load.settings(made.folder), START_TIMEOUT_S
    with comparing(
        made, settings, models, load, log, tell, profile="gpu", start_timeout_s=limit_s
    ) as comparison:
        yield comparison


def _described(made: RandomBundle, comparison: Comparison) -> dict[str, Any]:
    sizes = {"items": made.manifest.model.num_items, "steps": made.manifest.defaults.retrieval_steps}
    settings = comparison.load.settings(made.folder)
    return sizes | {"settings": settings, "index": made.manifest.index, "server": comparison.describe()}


def _found(made: RandomBundle, comparison: Comparison) -> dict[str, Any]:
    rows = [row for stack, found in comparison.results.items() for row in found.rows(stack)]
    return _described(made, comparison) | {"load": asdict(comparison.load), "rows": rows}
