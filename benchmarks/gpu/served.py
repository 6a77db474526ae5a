"""Through Triton with the GPU profile: unified beside separate, arrivals at a constant rate, and answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compare import Comparison, LoadPlan
from benchmarks.gpu.answers import AnswerCheck, Asked, check_answers, random_visits
from benchmarks.gpu.passing import follow, grpc_call
from benchmarks.random_bundle import RandomBundle
from benchmarks.ratios import best_concurrency, by_concurrency, headline
from benchmarks.report import STACKS
from benchmarks.target import SEPARATE, UNIFIED, Target, serving
from benchmarks.workload import ColdTraffic
from ensemble.graph import MODEL_REPOSITORY, Tensors, ensembles_in
from ensemble.settings import ServingSettings

SLOTS_PER_USER = 2
START_TIMEOUT_S = 540.0
"""Compiling and capturing every shape takes minutes the first time; the compiler keeps what it made."""

RATE, RATE_STEPS = 80.0, 6
"""PinRec's rate, and the steps of its p50 of 40 ms and p90 of 65 ms on an NVIDIA L40S."""

LOAD = LoadPlan(
    concurrencies=(1, 8, 32), rounds=2, seconds=3.0, least_replies=50, ramp_s=0.5, open_seconds=40.0,
    rate_shares=(), timeout_s=30.0, warm_users=32, seed=1,
)  # fmt: skip
MODELS = {stack: SEPARATE if stack.startswith("separate") else UNIFIED for stack in STACKS}


@dataclass(frozen=True, slots=True)
class GpuServer:
    """A bundle behind a server with the GPU profile, started anew for each measurement.

    Each raises `ServerError` if it does not start, and `NoAnswerError` if a stack answers nothing.
    """

    made: RandomBundle
    out: Path
    """Folder of the server's logs."""
    tell: Callable[[str], None]
    """Is told what runs next."""

    def compare(self) -> dict[str, Any]:
        """Return all stacks in turn at every concurrency (`rows`), their `ratios`, the `stages` of a request
        alone and at the best rate of each stack, and what goes from node to node (`passing`)."""
        with self._running("server-gpu", MODELS) as target:
            comparison = Comparison(target, LOAD, self.tell)
            comparison.warm_up()
            comparison.run_rounds()
            results = comparison.results
            stages = [
                stack.mean_stages(level)
                for stack in results.values()
                for level in sorted({min(stack.closed), best_concurrency(stack.closed)})
            ]
            found = self._found(target, comparison) | {"stages": stages}
            pairs = {
                kind: (results[f"unified_{kind}"].closed, results[f"separate_{kind}"].closed)
                for kind in ("cold", "warm")
            }
            for key, over in (("ratios", headline), ("ratios_by_concurrency", by_concurrency)):
                found[key] = {
                    f"{name}_{kind}": ratio
                    for kind, both in pairs.items()
                    for name, ratio in over(*both).items()
                }
            self.tell("tensors between the nodes")
            request = target.make_request(ColdTraffic(target.space, seed=99).take())
            graph, call = ensembles_in(MODEL_REPOSITORY)[UNIFIED], grpc_call(target.client, LOAD.timeout_s)
            return found | {"passing": follow(graph, request, call, self.made.manifest.model)}

    def arrivals(self) -> dict[str, Any]:
        """Return Poisson arrivals at `RATE`, of users whose histories are cached and of others."""
        models = {stack: model for stack, model in MODELS.items() if model == UNIFIED}
        with self._running("server-gpu-arrivals", models) as target:
            comparison = Comparison(target, replace(LOAD, concurrencies=(LOAD.warm_users,)), self.tell)
            comparison.warm_up()
            comparison.run_schedule(list(models), [RATE])
            return self._found(target, comparison)

    def answers(self, requests: int, seed: int, device: torch.device) -> dict[str, Any]:
        """Return so many random requests, the answer of each compared with PyTorch on the device."""
        with self._running("server-gpu-answers", {"unified_random": UNIFIED}) as target:
            call, check = grpc_call(target.client, LOAD.timeout_s), AnswerCheck(self.made, device)

            def send(asked: Asked) -> Tensors:
                visit, num_results = asked
                wanted = {"NUM_RESULTS": np.array([[num_results]], np.int64)}
                return call(UNIFIED, target.make_request(visit) | wanted)

            found = check_answers(send, random_visits(self.made, seed), check, requests, self.tell)
            return found | self._described(target)

    def _settings(self) -> ServingSettings:
        """Those of the environment, with slots for all returning users."""
        settings = ServingSettings(bundle=self.made.folder)
        if "pool_slots" in settings.model_fields_set:
            return settings
        return settings.model_copy(update={"pool_slots": SLOTS_PER_USER * LOAD.warm_users})

    @contextmanager
    def _running(self, name: str, models: Mapping[str, str]) -> Iterator[Target]:
        self.tell("starting the server (minutes: it compiles and captures every shape)")
        log, limit = self.out / f"{name}.log", START_TIMEOUT_S
        settings = self._settings()
        with serving(self.made, settings, models, log, profile="gpu", start_timeout_s=limit) as target:
            yield target

    def _described(self, target: Target) -> dict[str, Any]:
        manifest = self.made.manifest
        served = {"items": manifest.model.num_items, "steps": manifest.defaults.retrieval_steps}
        return served | {"index": manifest.index, "settings": self._settings(), "server": target.describe()}

    def _found(self, target: Target, comparison: Comparison) -> dict[str, Any]:
        rows = [row for stack, found in comparison.results.items() for row in found.rows(stack)]
        return self._described(target) | {"load": asdict(comparison.plan), "rows": rows}
