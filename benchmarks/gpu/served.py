"""Through Triton with the GPU profile: unified beside separate, and arrivals at a constant rate."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.compare import Comparison, LoadPlan
from benchmarks.gpu.passing import follow, grpc_call
from benchmarks.gpu.report import Arrivals, Passing, Served
from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.ratios import best_concurrency, by_concurrency, headline
from benchmarks.report import STACKS
from benchmarks.target import SEPARATE, UNIFIED, Target, serving
from benchmarks.workload import ColdTraffic
from ensemble.graph import MODEL_REPOSITORY, ensembles_in
from ensemble.settings import ServingSettings

PROFILE = "gpu"
SIZES = "paper"
SLOTS_PER_USER = 2
START_TIMEOUT_S = 540.0
"""Compiling and capturing every shape takes minutes the first time; the compiler keeps what it made."""

RATE = 80.0
RATE_STEPS = 6
"""PinRec's rate, and the steps of its p50 of 40 ms and p90 of 65 ms on an NVIDIA L40S."""

LOAD = LoadPlan(
    concurrencies=(1, 8, 32),
    rounds=2,
    seconds=3.0,
    least_replies=50,
    ramp_s=0.5,
    open_seconds=40.0,
    rate_shares=(),
    timeout_s=30.0,
    warm_users=32,
    seed=1,
)
MODELS = {stack: SEPARATE if stack.startswith("separate") else UNIFIED for stack in STACKS}


def make_bundle(
    items: int, folder: Path, tell: Callable[[str], None], *, steps: int = 1, sizes: str = SIZES
) -> RandomBundle:
    """The bundle that is served, made on the CPU unless an earlier run left it."""
    tell(f"bundle of {items:,} items, {steps} retrieval steps (minutes, unless it is there)")
    return make_random_bundle(items, folder / "bundles", lambda _: None, sizes=sizes, retrieval_steps=steps)


def settings_for(made: RandomBundle) -> ServingSettings:
    """Those of the environment, with slots for all returning users."""
    settings = ServingSettings(bundle=made.folder)
    if "pool_slots" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"pool_slots": SLOTS_PER_USER * LOAD.warm_users})


@contextmanager
def gpu_server(
    made: RandomBundle, models: Mapping[str, str], log: Path, tell: Callable[[str], None]
) -> Iterator[Target]:
    """A server with the GPU profile.

    Raises:
        ServerError: it does not start.
    """
    tell("starting the server (minutes: it compiles and captures every shape)")
    with serving(
        made, settings_for(made), models, log, profile=PROFILE, start_timeout_s=START_TIMEOUT_S
    ) as target:
        yield target


def run_served(made: RandomBundle, out: Path, tell: Callable[[str], None], load: LoadPlan = LOAD) -> Served:
    """All stacks in turn at every concurrency.

    Raises:
        ServerError: the server does not start.
        NoAnswerError: a stack answered nothing for a whole window.
    """
    with gpu_server(made, MODELS, out / "server-gpu.log", tell) as target:
        comparison = Comparison(target, load, tell)
        comparison.warm_up()
        comparison.run_rounds()
        tell("tensors between the nodes")
        return _served(made, target, comparison, passing(target, made))


def run_arrivals(
    made: RandomBundle, out: Path, tell: Callable[[str], None], load: LoadPlan = LOAD
) -> Arrivals:
    """Poisson arrivals at `RATE`, of users whose histories are not cached and of returning ones.

    Raises:
        ServerError: the server does not start.
        NoAnswerError: nothing was answered.
    """
    models = {stack: model for stack, model in MODELS.items() if model == UNIFIED}
    with gpu_server(made, models, out / "server-gpu-arrivals.log", tell) as target:
        comparison = Comparison(target, replace(load, concurrencies=(load.warm_users,)), tell)
        comparison.warm_up()
        comparison.run_schedule(list(models), [RATE])
        return Arrivals(
            steps=made.manifest.defaults.retrieval_steps,
            rate=RATE,
            settings=_settings(made),
            server=target.describe(),
            rows=tuple(row for stack, found in comparison.results.items() for row in found.rows(stack)),
        )


def passing(target: Target, made: RandomBundle) -> Passing:
    """What one request with a full history sends from node to node."""
    visit = ColdTraffic(target.space, seed=99).take()
    graph = ensembles_in(MODEL_REPOSITORY)[UNIFIED]
    return follow(graph, target.make_request(visit), grpc_call(target.client), made.manifest.model)


def _served(made: RandomBundle, target: Target, comparison: Comparison, passed: Passing) -> Served:
    results = comparison.results
    pairs = [(kind, results[f"unified_{kind}"], results[f"separate_{kind}"]) for kind in ("cold", "warm")]
    return Served(
        items=made.manifest.model.num_items,
        settings=_settings(made),
        server=target.describe(),
        load=_load(comparison.plan),
        rows=tuple(row for stack, found in results.items() for row in found.rows(stack)),
        stages=tuple(
            found.mean_stages(level)
            for found in results.values()
            for level in sorted({min(found.closed), best_concurrency(found.closed)})
        ),
        ratios={
            f"{name}_{kind}": one
            for kind, unified, separate in pairs
            for name, one in headline(unified.closed, separate.closed).items()
        },
        ratios_by_concurrency={
            f"{name}_{kind}": ratios
            for kind, unified, separate in pairs
            for name, ratios in by_concurrency(unified.closed, separate.closed).items()
        },
        passing=passed,
    )


def _settings(made: RandomBundle) -> dict[str, Any]:
    fields = settings_for(made).model_dump(mode="json", exclude={"bundle", "runtime_dir"})
    return fields | {"profile": PROFILE, "index": made.manifest.index, "bundle_id": made.manifest.bundle_id}


def _load(plan: LoadPlan) -> dict[str, Any]:
    return {
        "protocol": "gRPC over loopback, inline histories, one user a request",
        "concurrencies": list(plan.concurrencies),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "ramp_s": plan.ramp_s,
        "warm_users": plan.warm_users,
    }
