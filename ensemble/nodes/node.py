"""Between Triton's Python backend and a node: unpack, run many requests together, isolate errors, pack."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import Arrays, BundleMismatchError, InvalidInputError
from ensemble.nodes.logs import log_as_json
from ensemble.nodes.metrics import (
    BATCH_ROWS,
    FAILURES,
    STAGE_SECONDS,
    STAGES,
    MetricsExport,
    labelled_histogram,
)
from ensemble.settings import ServingSettings

log = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")


class Node(Protocol[Row, Result]):
    """What a serving node does with requests; none of it knows Triton."""

    metrics: CollectorRegistry
    """What the node counts itself."""

    def parse(self, arrays: Arrays) -> list[Row]:
        """Tensors of one request to one row per user."""

    def run(self, rows: Sequence[Row]) -> Sequence[Result]:
        """The rows of every request of a batch, computed together, in order."""

    def pack(self, rows: Sequence[Result]) -> dict[str, NDArray[Any]]:
        """The results of one request's users to output tensors."""

    def close(self) -> None:
        """Release what the node holds."""


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    """One of `FAILURES`."""
    error: Exception


class TritonNode:
    """Serves one node inside a Python-backend process."""

    def __init__(
        self,
        backend: ModuleType,
        args: Mapping[str, str],
        make: Callable[[LoadedBundle, ServingSettings], Node[Any, Any]],
    ) -> None:
        settings = ServingSettings()
        model, instance = args["model_name"], args["model_instance_name"]
        log_as_json(model, instance, settings.log_level)
        self._backend = backend
        self._node = make(LoadedBundle.open(settings.bundle), settings)
        self._watched = _Watched()
        registries = (self._watched.registry, self._node.metrics)
        self._export = MetricsExport(backend, model, instance, registries)
        self._export.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request of a batch; a bad one fails alone."""
        began = time.perf_counter()
        parsed = [_attempt(self._parse, request) for request in requests]
        good = [rows for rows in parsed if isinstance(rows, list)]
        ready = time.perf_counter()
        results = _attempt(self._run, good)
        if isinstance(results, _Failure):
            results = [_attempt(self._run_alone, rows) for rows in good]
        computed = time.perf_counter()
        answers = iter(results)
        outcomes = [next(answers) if isinstance(rows, list) else rows for rows in parsed]
        responses = [
            self._respond(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)
        ]
        seconds = (ready - began, computed - ready, time.perf_counter() - computed)
        self._watched.batch(sum(len(rows) for rows in good), seconds)
        return responses

    def close(self) -> None:
        """Release the node."""
        self._export.stop()
        self._node.close()

    def _parse(self, request: Any) -> list[Any]:
        return self._node.parse({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})

    def _run(self, good: list[list[Any]]) -> list[list[Any]]:
        """The results of each request's rows, all computed together."""
        results = iter(self._node.run([row for rows in good for row in rows]) if good else ())
        return [[next(results) for _ in rows] for rows in good]

    def _run_alone(self, rows: list[Any]) -> list[Any]:
        return self._run([rows])[0]

    def _respond(self, request: Any, outcome: list[Any] | _Failure) -> Any:
        packed = outcome if isinstance(outcome, _Failure) else _attempt(self._pack, outcome)
        if isinstance(packed, _Failure):
            return self._backend.InferenceResponse(error=self._refuse(request, packed))
        log.info("answered", extra={"request_id": request.request_id()})
        return self._backend.InferenceResponse(output_tensors=packed)

    def _pack(self, results: list[Any]) -> list[Any]:
        arrays = self._node.pack(results)
        return [self._backend.Tensor(name, array) for name, array in arrays.items()]

    def _refuse(self, request: Any, failure: _Failure) -> Any:
        """The error that a request is answered with, counted and logged."""
        errors, error = self._backend.TritonError, failure.error
        self._watched.failed.labels(failure.reason).inc()
        told = {"request_id": request.request_id(), "reason": failure.reason}
        if failure.reason == "internal":
            log.error("a request failed", exc_info=error, extra=told)
            return errors(f"{type(error).__name__}: {error}", errors.INTERNAL)
        log.info("a request was refused: %s", error, extra=told)
        return errors(str(error), errors.INVALID_ARG if failure.reason == "invalid" else errors.UNAVAILABLE)


class _Watched:
    """What every node counts, whatever it computes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.failed = Counter(
            "unipinrec_failed_requests",
            "Requests that the node answered with an error",
            ["reason"],
            registry=self.registry,
        )
        for reason in FAILURES:
            self.failed.labels(reason)
        self._rows = labelled_histogram(
            self.registry, "unipinrec_batch_rows", "Users computed together", BATCH_ROWS
        )
        self._seconds = labelled_histogram(
            self.registry,
            "unipinrec_stage_seconds",
            "Time that a batch took in the node",
            STAGE_SECONDS,
            stage=STAGES,
        )

    def batch(self, rows: int, seconds: Sequence[float]) -> None:
        """One batch, and the seconds of each of its `STAGES`."""
        self._rows.observe(rows)
        for stage, taken in zip(STAGES, seconds, strict=True):
            self._seconds.labels(stage).observe(taken)


def _attempt(step: Callable[[Any], Any], argument: Any) -> Any:
    """The step's result, or why there is none."""
    try:
        return step(argument)
    except InvalidInputError as error:
        return _Failure("invalid", error)
    except BundleMismatchError as error:
        return _Failure("mismatch", error)
    except Exception as error:
        return _Failure("internal", error)
