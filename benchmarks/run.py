"""The whole benchmark: bundle, nodes without a server, stacks in turn, Zipf traffic, comparison, report."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.compare import Comparison, StackResults
from benchmarks.correctness import CorrectnessCheck
from benchmarks.in_process import InProcessPlan, Latencies, best_qps, median_ms, run_in_process
from benchmarks.plan import BenchPlan
from benchmarks.random_bundle import PRESET, RandomBundle, make_random_bundle
from benchmarks.ratios import ALONE, best_concurrency, by_concurrency, headline
from benchmarks.report import BenchReport, Bound, Overhead, Ratio, Stages
from benchmarks.target import UNIFIED, serving
from benchmarks.zipf import MODELS as ZIPF_MODELS
from benchmarks.zipf import fitting_size, pools, run_zipf
from ensemble.server.installation import Installation
from ensemble.settings import ServingSettings
from experiments.report import Machine

BATCHES = (1, 8)
"""Users in one call, tried for the bound of compute."""


@dataclass(slots=True)
class InProcess:
    """The nodes without a server, each time they were run."""

    alone: list[list[Latencies]] = field(default_factory=list)
    """One process."""
    together: list[list[Latencies]] = field(default_factory=list)
    """A process for each core."""


class Benchmark:
    """One run of a plan."""

    def __init__(self, plan: BenchPlan, tell: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """`tell` is told what runs next, `warn` what had to be changed."""
        self._plan = plan
        self._tell = tell
        self._warn = warn
        self._machine = Machine.here()
        self._results: dict[str, StackResults] = {}
        self._in_process = InProcess()
        self._remarks: list[str] = []
        self._server: dict[str, Any] = {}
        self._load: dict[str, Any] = {}

    def run(self) -> BenchReport:
        """Everything, with the server stopped at the end, and the report.

        Raises:
            ServerError: this machine cannot run the server, or it stopped.
            NoAnswerError: a stack answered nothing for a whole window.
        """
        began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        plan = self._plan
        Installation.find(ServingSettings().triton_home)
        self._tell(f"bundle of {plan.items:,} items with random weights (minutes, unless it is there)")
        made = make_random_bundle(plan.items, plan.out / "bundles", lambda _: None)
        settings = plan.settings(made.folder)
        if plan.stacks:
            self._compare(made, settings)
            if plan.has_zipf:
                # Zipf's pool takes most of the memory: what was measured is kept, whatever becomes of it.
                self._report(made, settings, began, started).write(plan.out / "report.json")
        if plan.has_zipf:
            self._run_zipf(made, settings)
        return self._report(made, settings, began, started)

    def _report(
        self, made: RandomBundle, settings: ServingSettings, began: float, started: str
    ) -> BenchReport:
        plan = self._plan
        self._tell("comparing sampled answers with offline PyTorch")
        samples = {stack: results.samples for stack, results in self._results.items()}
        correctness = CorrectnessCheck(made, plan.tolerance, plan.most_checked)(samples)
        return BenchReport(
            started=started,
            minutes=(time.monotonic() - began) / 60,
            quick=plan.quick,
            seed=plan.load.seed,
            machine=self._machine,
            models={stack: _ensemble(stack, plan) for stack in self._results},
            shape=_shape(made),
            settings=_settings(made, settings) | self._server,
            load=_load(plan) | self._load,
            rows=tuple(row for stack, found in self._results.items() for row in found.rows(stack)),
            ratios=self._ratios(),
            ratios_by_concurrency=self._ratios_by_concurrency(),
            overhead=self._overhead(),
            stages=self._stages(),
            bound=self._bound(),
            correctness=correctness,
            remarks=tuple(self._remarks),
        )

    def _compare(self, made: RandomBundle, settings: ServingSettings) -> None:
        plan = self._plan
        self._run_in_process(made, settings)
        self._tell("starting the server")
        models = {stack: _ensemble(stack, plan) for stack in plan.stacks}
        with serving(made, settings, models, plan.out / "server.log") as target:
            self._server |= target.describe()
            comparison = Comparison(target, plan.load, self._tell)
            comparison.warm_up()
            comparison.run_rounds()
            for kind in ("cold", "warm"):
                stacks = [stack for stack in plan.stacks if stack.endswith(kind)]
                if stacks:
                    best = _best_qps(comparison.results[f"unified_{kind}"])
                    comparison.run_schedule(stacks, [share * best for share in plan.load.rate_shares])
        self._results |= comparison.results
        if plan.in_process_after:
            self._run_in_process(made, settings)

    def _run_in_process(self, made: RandomBundle, settings: ServingSettings) -> None:
        plan = self._plan
        self._tell("the nodes without a server")
        chain = InProcessPlan(
            settings=settings,
            num_results=made.num_results,
            stacks=plan.stacks,
            batches=(1,),
            seconds=plan.in_process_seconds,
            warm_users=plan.load.warm_users,
            seed=plan.load.seed,
        )
        self._in_process.alone.append(run_in_process(chain, 1))
        together = replace(chain, batches=BATCHES)
        self._in_process.together.append(run_in_process(together, self._machine.cores))

    def _run_zipf(self, made: RandomBundle, settings: ServingSettings) -> None:
        plan = self._plan
        size = fitting_size(plan.zipf_users, made.manifest.model, settings, self._remark)
        self._load["zipf"] = {"users": size.users, "slots": size.slots, "exponent": 1.0}
        each = size.slots // pools()
        roomy = settings.model_copy(update={"pool_slots": each})
        self._tell(f"starting a server with {pools()} pools of {each} slots")
        with serving(made, roomy, ZIPF_MODELS, plan.out / "server-zipf.log") as target:
            self._server |= target.describe() | self._server
            comparison = Comparison(target, plan.zipf_load, self._tell)
            run_zipf(comparison, target.space, size, plan.load.seed)
        self._results |= comparison.results

    def _remark(self, text: str) -> None:
        self._remarks.append(text)
        self._warn(text)

    def _pairs(self) -> list[tuple[str, StackResults, StackResults]]:
        """Kinds of traffic that both stacks were run with."""
        return [
            (kind, self._results[f"unified_{kind}"], self._results[f"separate_{kind}"])
            for kind in ("cold", "warm")
            if f"unified_{kind}" in self._results
        ]

    def _ratios(self) -> dict[str, Ratio]:
        return {
            f"{name}_{kind}": one
            for kind, unified, separate in self._pairs()
            for name, one in headline(unified.closed, separate.closed).items()
        }

    def _ratios_by_concurrency(self) -> dict[str, tuple[Ratio, ...]]:
        return {
            f"{name}_{kind}": ratios
            for kind, unified, separate in self._pairs()
            for name, ratios in by_concurrency(unified.closed, separate.closed).items()
        }

    def _overhead(self) -> dict[str, Overhead]:
        return {
            stack: _overhead_of(
                [median_ms(latencies, stack) for latencies in self._in_process.alone],
                next(row.p50_ms for row in self._results[stack].rows(stack) if row.concurrency == ALONE),
            )
            for stack in self._plan.stacks
        }

    def _bound(self) -> dict[str, Bound]:
        return {
            stack: _bound_of(
                [best_qps(latencies, stack) for latencies in self._in_process.together],
                len(self._in_process.together[0]),
                _best_qps(self._results[stack]),
            )
            for stack in self._plan.stacks
        }

    def _stages(self) -> tuple[Stages, ...]:
        """One request at a time, and under the load that each stack answers most of."""
        found = []
        for results in self._results.values():
            levels = {min(results.closed), best_concurrency(results.closed)}
            found += [results.mean_stages(level) for level in sorted(levels)]
        return tuple(found)


def _ensemble(stack: str, plan: BenchPlan) -> str:
    return plan.baseline if stack.startswith("separate") else UNIFIED


def _best_qps(results: StackResults) -> float:
    best = best_concurrency(results.closed)
    return next(row.qps for row in results.rows("") if row.concurrency == best)


def _overhead_of(in_process: list[float], served_p50_ms: float) -> Overhead:
    alone = sum(in_process) / len(in_process)
    return Overhead(
        in_process_p50_ms=alone,
        in_process_rounds=tuple(in_process),
        served_p50_ms=served_p50_ms,
        overhead_ms=served_p50_ms - alone,
    )


def _bound_of(in_process: list[tuple[float, int]], processes: int, best_served_qps: float) -> Bound:
    rates = [rate for rate, _ in in_process]
    together = sum(rates) / len(rates)
    return Bound(
        processes=processes,
        batch=max(in_process)[1],
        in_process_qps=together,
        in_process_rounds=tuple(rates),
        best_served_qps=best_served_qps,
        share_of_bound=best_served_qps / together,
    )


def _shape(made: RandomBundle) -> dict[str, int | str]:
    model = made.manifest.model
    names = ("layers", "width", "heads", "max_history", "window_block", "max_candidates", "item_dim")
    sizes = {name: int(getattr(model, name)) for name in names}
    counts = {"items": model.num_items, "actions": model.num_actions, "num_results": made.num_results}
    return {"preset": PRESET, "weights": "random"} | sizes | counts


def _settings(made: RandomBundle, settings: ServingSettings) -> dict[str, Any]:
    fields = settings.model_dump(mode="json", exclude={"bundle", "runtime_dir"})
    compute = {"precision": "float32", "index": made.manifest.index, "bundle_id": made.manifest.bundle_id}
    return fields | compute


def _load(plan: BenchPlan) -> dict[str, Any]:
    load = plan.load
    return {
        "protocol": "gRPC over loopback, inline histories, one user a request",
        "rounds": load.rounds,
        "seconds": load.seconds,
        "least_replies": load.least_replies,
        "ramp_s": load.ramp_s,
        "timeout_s": load.timeout_s,
        "warm_users": load.warm_users,
        "open_seconds": load.open_seconds,
        "open_rate_shares": list(load.rate_shares),
        "zipf_seconds": plan.zipf_seconds,
    }
