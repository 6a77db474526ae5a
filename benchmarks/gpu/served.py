"""Through Triton with the GPU profile: unified beside separate, arrivals at a constant rate, and answers.

Each starts a server anew. `ServerError` is raised if that fails, `NoAnswerError` if a stack answers nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compare import Comparison, LoadPlan
from benchmarks.gpu.answers import Asked, answer_check, check_answers, random_visits
from benchmarks.gpu.passing import follow
from benchmarks.random_bundle import RandomBundle
from benchmarks.ratios import best_concurrency, by_concurrency, headline
from benchmarks.report import STACKS
from benchmarks.target import SEPARATE, UNIFIED, Target, serving
from benchmarks.workload import ColdTraffic
from ensemble.graph import MODEL_REPOSITORY, Tensors, call_server, ensembles_in
from ensemble.settings import ServingSettings

Tell = Callable[[str], None]
"""Is told what runs next."""

SLOTS_PER_USER = 2
START_TIMEOUT_S = 540.0
"""Compiling and capturing every shape takes minutes the first time; the compiler keeps what it made."""

RATE, RATE_STEPS = 80.0, 6
"""PinRec's rate, and the steps of its p50 of 40 ms and p90 of 65 ms on an NVIDIA L40S."""

LOAD = LoadPlan(
    concurrencies=(1, 8, 32), rounds=2, seconds=3.0, least_replies=50, ramp_s=0.5, open_seconds=40.0,
    rate_shares=(), timeout_s=30.0, warm_users=32, seed=1,
)  # fmt: skip


def compare_stacks(made: RandomBundle, log: Path, tell: Tell) -> dict[str, Any]:
    """Return all stacks in turn at every concurrency (`rows`), their `ratios`, the `stages` of a request by
    itself and at each stack's best rate, and what goes from node to node (`passing`)."""
    with _running(made, STACKS, log, tell) as target:
        comparison = Comparison(target, LOAD, tell)
        comparison.warm_up()
        comparison.run_rounds()
        stacks = comparison.results
        stages = [
            stack.mean_stages(level)
            for stack in stacks.values()
            for level in sorted({min(stack.closed), best_concurrency(stack.closed)})
        ]
        found = _found(made, target, comparison) | {"stages": stages}
        pairs = {
            kind: (stacks[f"unified_{kind}"].closed, stacks[f"separate_{kind}"].closed)
            for kind in ("cold", "warm")
        }
        for key, over in (("ratios", headline), ("ratios_by_concurrency", by_concurrency)):
            found[key] = {
                f"{name}_{kind}": ratio for kind, pair in pairs.items() for name, ratio in over(*pair).items()
            }
        request = target.make_request(ColdTraffic(target.space, seed=99).take())
        graph, call = ensembles_in(MODEL_REPOSITORY)[UNIFIED], call_server(target.client, LOAD.timeout_s)
        return found | {"passing": follow(graph, request, call, made.manifest.model)}


def run_arrivals(made: RandomBundle, log: Path, tell: Tell) -> dict[str, Any]:
    """Return Poisson arrivals at `RATE`, of users whose histories are cached and of others."""
    stacks = [stack for stack in STACKS if stack.startswith("unified")]
    with _running(made, stacks, log, tell) as target:
        comparison = Comparison(target, replace(LOAD, concurrencies=(LOAD.warm_users,)), tell)
        comparison.warm_up()
        comparison.run_schedule(stacks, [RATE])
        return _found(made, target, comparison)


def compare_answers(
    made: RandomBundle, log: Path, tell: Tell, requests: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """Return so many random requests, the answer of each compared with PyTorch on the device."""
    with _running(made, ["unified_random"], log, tell) as target:
        call = call_server(target.client, LOAD.timeout_s)

        def send(asked: Asked) -> Tensors:
            visit, num_results = asked
            wanted = {"NUM_RESULTS": np.array([[num_results]], np.int64)}
            return call(UNIFIED, target.make_request(visit) | wanted)

        visits, check = random_visits(made, seed), answer_check(made, device)
        return _described(made, target) | check_answers(send, visits, check, requests, tell)


def _settings(made: RandomBundle) -> ServingSettings:
    """Those of the environment, with slots for all returning users."""
    settings = ServingSettings(bundle=made.folder)
    if "pool_slots" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"pool_slots": SLOTS_PER_USER * LOAD.warm_users})


@contextmanager
def _running(made: RandomBundle, stacks: Sequence[str], log: Path, tell: Tell) -> Iterator[Target]:
    tell("starting the server (minutes: it compiles and captures every shape)")
    models = {stack: SEPARATE if stack.startswith("separate") else UNIFIED for stack in stacks}
    limit = START_TIMEOUT_S
    with serving(made, _settings(made), models, log, profile="gpu", start_timeout_s=limit) as target:
        yield target


def _described(made: RandomBundle, target: Target) -> dict[str, Any]:
    sizes = {"items": made.manifest.model.num_items, "steps": made.manifest.defaults.retrieval_steps}
    return sizes | {"settings": _settings(made), "index": made.manifest.index, "server": target.describe()}


def _found(made: RandomBundle, target: Target, comparison: Comparison) -> dict[str, Any]:
    rows = [row for stack, found in comparison.results.items() for row in found.rows(stack)]
    return _described(made, target) | {"load": asdict(comparison.plan), "rows": rows}
