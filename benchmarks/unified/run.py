"""The whole benchmark: bundle, nodes without a server, stacks in turn, Zipf traffic, comparison, report."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.unified.correctness import AnswerCheck
from benchmarks.unified.in_process import Latencies, best_rate, median_ms, run_in_process
from benchmarks.unified.measures import ALONE, best_qps, ratios, ratios_by_concurrency
from benchmarks.unified.plan import BenchPlan, Kind
from benchmarks.unified.report import BenchReport, InProcess
from benchmarks.unified.stacks import UNIFIED, StackResults, comparing
from benchmarks.unified.zipf import MODELS as ZIPF_MODELS
from benchmarks.unified.zipf import USERS_PER_SLOT, fitting_slots, pools, run_zipf
from ensemble.server.installation import Installation
from ensemble.settings import ServingSettings
from experiments.report import Machine
from loadtest.report import write_report

BATCHES = (1, 8)
"""Users in one call, tried for the bound of compute."""


class Benchmark:
    """One run of a plan."""

    def __init__(self, plan: BenchPlan, tell: Callable[[str], None]) -> None:
        """`tell` is told what runs next."""
        self._plan = plan
        self._tell = tell
        self._machine = Machine.here()
        self._began, self._started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        self._results: dict[str, StackResults] = {}
        self._alone: list[list[Latencies]] = []
        """The nodes in one process without a server, each time they were run."""
        self._together: list[list[Latencies]] = []
        """The nodes in a process for each core, each time they were run."""
        self._remarks: list[str] = []
        self._server: dict[str, Any] = {}
        self._zipf: dict[str, Any] = {}

    def run(self) -> BenchReport:
        """Run everything, with the server stopped at the end, and return the report that was written.

        Raises `ServerError` if this machine cannot run the server or it stopped, `NothingMeasuredError` if a
        stack answered nothing for a whole window, `FillError` if a cache could not be filled, and
        `MemoryError` if the Zipf run's pool does not fit.
        """
        plan = self._plan
        plan.out.mkdir(parents=True, exist_ok=True)
        Installation.find(ServingSettings().triton_home)
        self._tell(f"bundle of {plan.items:,} items with random weights (minutes, unless it is there)")
        made = make_random_bundle(plan.items, plan.out / "bundles", lambda _: None)
        settings = plan.load.settings(made.folder)
        check = AnswerCheck(made, plan.tolerance, plan.most_checked)
        if plan.stacks:
            self._compare(made, settings)
            # Zipf's pool takes most of the memory: what was measured is kept, whatever becomes of it.
            report = self._report(made, settings, check)
        if plan.has_zipf:
            self._run_zipf(made, settings)
            report = self._report(made, settings, check)
        return report

    def _compare(self, made: RandomBundle, settings: ServingSettings) -> None:
        plan = self._plan
        self._run_in_process(made)
        self._tell("starting the server")
        models = {stack: self._ensemble(stack) for stack in plan.stacks}
        log = plan.out / "server.log"
        with comparing(made, settings, models, plan.load, log, self._tell) as comparison:
            self._server |= comparison.describe()
            comparison.warm_up()
            comparison.run_rounds()
            for kind in (Kind.COLD, Kind.WARM):
                if stacks := [stack for stack in plan.stacks if stack.endswith(kind)]:
                    best = best_qps(comparison.results[f"unified_{kind}"].closed)
                    comparison.run_schedule(stacks, [share * best for share in plan.load.rate_shares])
        self._results |= comparison.results
        if not plan.quick:
            self._run_in_process(made)

    def _run_in_process(self, made: RandomBundle) -> None:
        plan = self._plan
        self._tell("the nodes without a server")
        self._alone.append(run_in_process(plan, made, (1,), 1))
        self._together.append(run_in_process(plan, made, BATCHES, self._machine.cores))

    def _run_zipf(self, made: RandomBundle, settings: ServingSettings) -> None:
        plan = self._plan
        users, slots = plan.zipf_users, fitting_slots(plan.zipf_users, made.manifest.model, settings)
        if slots < users // USERS_PER_SLOT:
            users = slots * USERS_PER_SLOT
            self._remarks.append(f"memory is short: {users} users and {slots} slots in the Zipf run")
        self._zipf = {"users": users, "slots": slots, "exponent": 1.0}
        roomy = settings.model_copy(update={"pool_slots": slots // pools()})
        self._tell("; ".join([f"starting a server with {slots} slots", *self._remarks]))
        log = plan.out / "server-zipf.log"
        with comparing(made, roomy, ZIPF_MODELS, plan.zipf_load, log, self._tell) as comparison:
            self._server = comparison.describe() | self._server
            run_zipf(comparison, users, slots)
        self._results |= comparison.results

    def _ensemble(self, stack: str) -> str:
        return self._plan.baseline if stack.startswith("separate") else UNIFIED

    def _report(self, made: RandomBundle, settings: ServingSettings, check: AnswerCheck) -> BenchReport:
        plan, found = self._plan, self._results
        self._tell("comparing sampled answers with offline PyTorch")
        for stack, results in found.items():
            check.add(stack, results.answers)
        served = {"precision": "float32", "index": made.manifest.index, "bundle_id": made.manifest.bundle_id}
        report = BenchReport(
            started=self._started,
            minutes=(time.monotonic() - self._began) / 60,
            quick=plan.quick,
            seed=plan.load.seed,
            machine=self._machine,
            models={stack: self._ensemble(stack) for stack in found},
            shape=made.shape(),
            settings=settings.model_dump(mode="json", exclude={"bundle", "runtime_dir"})
            | served
            | self._server,
            load=asdict(plan.load) | {"zipf_seconds": plan.zipf_seconds, "zipf": self._zipf},
            rows=tuple(row for stack, results in found.items() for row in results.rows(stack)),
            ratios=ratios({stack: results.closed for stack, results in found.items()}),
            ratios_by_concurrency=ratios_by_concurrency({s: results.closed for s, results in found.items()}),
            in_process={stack: self._beside(stack) for stack in plan.stacks},
            stages=tuple(stages for stack, results in found.items() for stages in results.stages(stack)),
            correctness=check.found(),
            remarks=tuple(self._remarks),
        )
        write_report(plan.out / "report.json", report.model_dump(mode="json"))
        return report

    def _beside(self, stack: str) -> InProcess:
        closed = self._results[stack].closed
        alone = [median_ms(latencies, stack) for latencies in self._alone]
        together = [best_rate(latencies, stack) for latencies in self._together]
        served_ms = statistics.median(window.measured.p50_ms for window in closed[ALONE])
        return InProcess(
            p50_ms=tuple(alone),
            overhead_ms=served_ms - statistics.fmean(alone),
            processes=len(self._together[0]),
            batch=max(together)[1],
            qps=tuple(rate for rate, _ in together),
            share_of_bound=best_qps(closed) / statistics.fmean(rate for rate, _ in together),
        )
