"""Between Triton's Python backend and a node: unpack, run many requests together, isolate errors, pack."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from pythonjsonlogger.json import JsonFormatter

from ensemble.index.unavailable import IndexUnavailableError
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.busy import Busy
from ensemble.nodes.contract import (
    ADMIN_HEADER,
    ADMIN_KEY,
    ADMISSION,
    ASKED_OUTPUTS,
    REQUEST_ID,
    Arrays,
    BundleMismatchError,
    ExpiredError,
    InvalidInputError,
    RefusedError,
)
from ensemble.nodes.impossible_shapes import tolerate_impossible_shapes
from ensemble.nodes.in_flight import Ending, InFlightTables, Ticket, now_us
from ensemble.nodes.metrics import BATCH_ROWS, FAILURES, STAGE_SECONDS, STAGES, MetricsExport, with_series
from ensemble.nodes.seal import Seal, StaleSealError
from ensemble.settings import NODE, ServingSettings
from ensemble.stores.history_store import StoreUnavailableError

log = logging.getLogger(__name__)

UNAVAILABLE = (IndexUnavailableError, StoreUnavailableError)
"""What a node says of a server of its own that does not answer."""

GIVES_WAY = 10
"""Niceness of a node that computes: where a process without wants the same processor, it gets a tenth."""

LONGEST_ID_TOLD = 128
"""Characters of a request's id that come back in an error."""

Row = TypeVar("Row")
Result = TypeVar("Result")


class Node(Protocol[Row, Result]):
    """What a serving node does with requests; none of it knows Triton."""

    metrics: CollectorRegistry
    """What the node counts itself."""

    def parse(self, arrays: Arrays) -> list[Row]:
        """Return a row for each user of one request's tensors. Raises `InvalidInputError` if a tensor holds
        what the contract does not allow, and `BundleMismatchError` if a node of another bundle made them."""

    def run(self, rows: Sequence[Row]) -> Sequence[Result]:
        """Return the results of every request of a batch, computed together, in order."""

    def pack(self, rows: Sequence[Result]) -> dict[str, NDArray[Any]]:
        """Return the output tensors for the results of one request's users."""

    def close(self) -> None:
        """Release what the node holds."""


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    """One of `FAILURES`."""
    error: Exception


class EntryPoint:
    """Base of `TritonPythonModel`, the class that the Python backend looks for: one node in its process. A
    node names its class; what needs to know more of its instance overrides `make`."""

    node: ClassVar[Callable[[LoadedBundle, ServingSettings], Node[Any, Any]]]
    exports_metrics: ClassVar[bool] = True
    """Whether the server tells what the node counts."""
    may_wait: ClassVar[bool] = False
    """Whether it waits for other processes as long as they like, so that waiting is no sign of a hang."""
    computes: ClassVar[bool] = False
    """Whether a batch takes the processor for long. Such a node gives way to the server and to the edge, so
    that what is refused is refused at once however much is computed."""
    answers: ClassVar[bool] = False
    """Whether a request has ended with the node's answer."""

    def make(
        self, loaded: LoadedBundle, settings: ServingSettings, args: Mapping[str, str]
    ) -> Node[Any, Any]:
        """Return the node. `args` is what Triton tells an instance about itself."""
        del args
        return type(self).node(loaded, settings)

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that the model's configuration names, else the server's settings."""
        tolerate_impossible_shapes()
        if self.computes:
            os.setpriority(os.PRIO_PROCESS, 0, GIVES_WAY)
        config = json.loads(args["model_config"])
        settings = ServingSettings().with_parameters(config["parameters"])
        model, instance = args["model_name"], args["model_instance_name"]
        # A node of a second bundle has another name in the server.
        node = config["parameters"].get(NODE, {"string_value": model})["string_value"]
        log_as_json(node, instance, settings.log_level)
        self._required = [tensor["name"] for tensor in config["input"] if not tensor.get("optional")]
        self._busy = nullcontext() if self.may_wait else Busy(settings.runtime_dir)
        # Only the backend's own processes have this module.
        self._backend = import_module("triton_python_backend_utils")
        self._in_flight = InFlightTables(settings.runtime_dir)
        loaded = LoadedBundle.open(settings.bundle)
        sealed = any(tensor["name"] == ADMISSION for tensor in config["input"])
        self._seal = Seal(settings, loaded.id) if sealed else None
        self._node = self.make(loaded, settings, args)
        registry = CollectorRegistry()
        text = "Requests that the node answered with an error"
        failed = Counter("unipinrec_failed_requests", text, ["reason"], registry=registry)
        self._failed = with_series(failed, FAILURES)
        text = "Users computed together"
        self._rows = Histogram("unipinrec_batch_rows", text, buckets=BATCH_ROWS, registry=registry)
        name, text = "unipinrec_stage_seconds", "Time that a batch took in the node"
        seconds = Histogram(name, text, ["stage"], buckets=STAGE_SECONDS, registry=registry)
        self._seconds = with_series(seconds, STAGES)
        self._export: MetricsExport | None = None
        if self.exports_metrics:
            registries = (registry, self._node.metrics)
            self._export = MetricsExport(self._backend, node, instance, registries)
            self._export.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request of a batch; a bad one fails alone."""
        with self._busy:
            return self._answer(requests)

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        began = time.perf_counter()
        tickets = [_attempt(self.ticket, request) for request in requests]
        parsed = [_attempt(self._parse, arrived) for arrived in zip(requests, tickets, strict=True)]
        good = [rows for rows in parsed if isinstance(rows, list)]
        ready = time.perf_counter()
        results = _attempt(self._run, good)
        if isinstance(results, _Failure) and len(good) == 1:
            results = [results]
        elif isinstance(results, _Failure):
            results = [_attempt(self._run_alone, rows) for rows in good]
        computed = time.perf_counter()
        answers = iter(results)
        outcomes = [next(answers) if isinstance(rows, list) else rows for rows in parsed]
        responses = [
            self._respond(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)
        ]
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            self._close(ticket, outcome)
        seconds = (ready - began, computed - ready, time.perf_counter() - computed)
        self._rows.observe(sum(len(rows) for rows in good))
        for stage, taken in zip(STAGES, seconds, strict=True):
            self._seconds.labels(stage).observe(taken)
        return responses

    def finalize(self) -> None:
        """Release what the node holds."""
        if self._export is not None:
            self._export.stop()
        self._node.close()

    def ticket(self, request: Any) -> Ticket | None:
        """Return what the edge has sent along with a request; None where it did not come from there. Raises
        what `Seal.open` does."""
        tensor = self._backend.get_input_tensor_by_name(request, ADMISSION)
        if tensor is None or self._seal is None:
            return None
        opened = self._seal.open({ADMISSION: _array_of(tensor)}, ADMISSION)[0]
        return Ticket.of_array(np.frombuffer(opened.content[ADMISSION], np.int64)[None])

    def _close(self, ticket: Ticket | _Failure | None, outcome: list[Any] | _Failure) -> None:
        if not isinstance(ticket, Ticket):
            return
        if isinstance(outcome, _Failure):
            expired = outcome.reason == "expired"
            self._in_flight.close(ticket, Ending.EXPIRED if expired else Ending.FAILED)
        elif self.answers:
            self._in_flight.close(ticket, Ending.ANSWERED)

    def _parse(self, arrived: tuple[Any, Ticket | _Failure | None]) -> list[Any]:
        request, ticket = arrived
        if isinstance(ticket, _Failure):
            raise ticket.error
        if ticket is not None and (late_us := now_us() - ticket.deadline_us) > 0:
            raise ExpiredError(f"the request's deadline passed {late_us / 1e3:.0f} ms ago")
        arrays = {tensor.name(): _array_of(tensor) for tensor in request.inputs()}
        # Triton 2.51 counts the inputs only, so that an optional one can stand in for one that is not.
        for name in self._required:
            if name not in arrays:
                raise InvalidInputError(f"{name} is missing; allowed: {', '.join(self._required)}")
        users = len(next(iter(arrays.values())))
        if ticket is not None and ADMISSION not in arrays:
            arrays[ADMISSION] = ticket.to_array(users)
        return self._node.parse(arrays | _beside(request, users))

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
        self._failed.labels(failure.reason).inc()
        told = {"request_id": request.request_id(), "reason": failure.reason}
        if failure.reason == "internal":
            log.error("a request failed", exc_info=error, extra=told)
            return errors(named(f"{type(error).__name__}: {error}", request), errors.INTERNAL)
        log.info("a request was refused: %s", error, extra=told)
        return errors(
            named(error.told if isinstance(error, UNAVAILABLE) else str(error), request),
            errors.INVALID_ARG if failure.reason == "invalid" else errors.UNAVAILABLE,
        )


def named(message: str, request: Any) -> str:
    """Return what a caller is told of a failed request, with the request's id behind it where it has one."""
    request_id = request.request_id()[:LONGEST_ID_TOLD]
    return f"{message} [request {request_id}]" if request_id else message


def log_as_json(node: str, instance: str, level: str) -> None:
    """Let this process log to standard error, one JSON object a line, from `level` on; the server's log file
    gets it."""
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        static_fields={"node": node, "instance": instance},
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _array_of(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.as_numpy()
    shape = tuple(tensor.shape())
    if array.shape != shape:
        raise InvalidInputError(f"{tensor.name()} has shape {list(shape)}; allowed: as many values as it has")
    return array


def _beside(request: Any, users: int) -> dict[str, NDArray[Any]]:
    """What came with a request beside its tensors, as tensors."""
    name = request.request_id().encode()
    asked = [output.encode() for output in request.requested_output_names()]
    found: dict[str, NDArray[Any]] = {
        REQUEST_ID: np.full((users, 1), name, np.object_),
        ASKED_OUTPUTS: np.array(asked, np.object_),
    }
    try:
        told = json.loads(request.parameters())
    except UnicodeDecodeError:
        # Its own message would have a part of the secret.
        raise InvalidInputError(f"{ADMIN_HEADER} has bytes that are no text; allowed: UTF-8") from None
    for header, value in told.items():
        # Over HTTP it is spelled as the caller does, over gRPC in small letters.
        if header.lower() == ADMIN_HEADER:
            found[ADMIN_KEY] = np.array([str(value).encode()], np.object_)
    return found


def _attempt(step: Callable[[Any], Any], argument: Any) -> Any:
    """The step's result, or why there is none."""
    try:
        return step(argument)
    except InvalidInputError as error:
        return _Failure("invalid", error)
    except RefusedError as error:
        return _Failure("refused", error)
    except ExpiredError as error:
        return _Failure("expired", error)
    except BundleMismatchError as error:
        return _Failure("mismatch", error)
    except StaleSealError as error:
        return _Failure("stale", error)
    except UNAVAILABLE as error:
        return _Failure("unavailable", error)
    except Exception as error:
        return _Failure("internal", error)
