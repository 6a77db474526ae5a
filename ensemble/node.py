"""Between Triton's Python backend and a node: unpack, run many requests together, isolate errors, pack."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray

from ensemble.contract import Arrays, BundleMismatchError, InvalidInputError
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings

log = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")


class Node(Protocol[Row, Result]):
    """What a serving node does with requests; none of it knows Triton."""

    def parse(self, arrays: Arrays) -> list[Row]:
        """Tensors of one request to one row per user."""

    def run(self, rows: Sequence[Row]) -> Sequence[Result]:
        """The rows of every request of a batch, computed together, in order."""

    def pack(self, rows: Sequence[Result]) -> dict[str, NDArray[Any]]:
        """The results of one request's users to output tensors."""

    def count(self, rows: Sequence[Result]) -> dict[str, int]:
        """What the node's metrics grow by."""

    def totals(self) -> dict[str, int]:
        """Further counters, since the node's start."""

    def levels(self) -> dict[str, float]:
        """Gauges of this instance."""

    def close(self) -> None:
        """Release what the node holds."""


class TritonNode:
    """Serves one node inside a Python-backend process."""

    def __init__(
        self,
        backend: ModuleType,
        args: Mapping[str, str],
        make: Callable[[LoadedBundle, ServingSettings], Node[Any, Any]],
    ) -> None:
        settings = ServingSettings()
        torch.set_num_threads(settings.threads)
        self._backend = backend
        self._node = make(LoadedBundle.open(settings.bundle), settings)
        self._metrics = _Metrics(backend, args["model_name"], args["model_instance_name"])
        self._counted: dict[str, int] = {}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request of a batch; a bad one fails alone."""
        parsed = [self._attempt(self._parse, request) for request in requests]
        good = [rows for rows in parsed if isinstance(rows, list)]
        results = self._attempt(self._run, good)
        if not isinstance(results, list):
            results = [self._attempt(self._run_alone, rows) for rows in good]
        answers = iter(results)
        outcomes = [next(answers) if isinstance(rows, list) else rows for rows in parsed]
        responses = [self._respond(outcome) for outcome in outcomes]
        self._watch()
        return responses

    def close(self) -> None:
        """Release the node."""
        self._node.close()

    def _parse(self, request: Any) -> list[Any]:
        return self._node.parse({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})

    def _run(self, good: list[list[Any]]) -> list[list[Any]]:
        """The results of each request's rows, all computed together."""
        results = iter(self._node.run([row for rows in good for row in rows]) if good else ())
        return [[next(results) for _ in rows] for rows in good]

    def _run_alone(self, rows: list[Any]) -> list[Any]:
        return self._run([rows])[0]

    def _attempt(self, step: Callable[[Any], Any], argument: Any) -> Any:
        """The step's result, or the error that the request is answered with."""
        errors = self._backend.TritonError
        try:
            return step(argument)
        except InvalidInputError as error:
            return errors(str(error), errors.INVALID_ARG)
        except BundleMismatchError as error:
            return errors(str(error), errors.UNAVAILABLE)
        except Exception as error:
            log.exception("a request failed")
            return errors(f"{type(error).__name__}: {error}", errors.INTERNAL)

    def _respond(self, outcome: Any) -> Any:
        packed = self._attempt(self._pack, outcome) if isinstance(outcome, list) else outcome
        if isinstance(packed, list):
            return self._backend.InferenceResponse(output_tensors=packed)
        return self._backend.InferenceResponse(error=packed)

    def _pack(self, results: list[Any]) -> list[Any]:
        arrays = self._node.pack(results)
        tensors = [self._backend.Tensor(name, array) for name, array in arrays.items()]
        self._metrics.add(self._node.count(results))
        return tensors

    def _watch(self) -> None:
        totals = self._node.totals()
        self._metrics.add({name: total - self._counted.get(name, 0) for name, total in totals.items()})
        self._counted = totals
        self._metrics.set(self._node.levels())


class _Metrics:
    """Counters of a model and gauges of an instance on Triton's metrics endpoint, made when first used."""

    def __init__(self, backend: ModuleType, model: str, instance: str) -> None:
        self._backend = backend
        self._model = model
        self._instance = instance
        # A metric lives as long as its family does.
        self._families: dict[str, tuple[Any, Any]] = {}

    def add(self, increments: Mapping[str, int]) -> None:
        """Let counters grow."""
        for name, increment in increments.items():
            self._metric(f"unipinrec_{name}_total", "COUNTER", {"node": self._model}).increment(increment)

    def set(self, levels: Mapping[str, float]) -> None:
        """Set gauges."""
        labels = {"node": self._model, "instance": self._instance}
        for name, level in levels.items():
            self._metric(f"unipinrec_{name}", "GAUGE", labels).set(level)

    def _metric(self, name: str, kind: str, labels: dict[str, str]) -> Any:
        if name not in self._families:
            words = name.removeprefix("unipinrec_").removesuffix("_total").replace("_", " ")
            family = self._backend.MetricFamily(
                name=name,
                description=f"{words} of node {self._model}",
                kind=getattr(self._backend.MetricFamily, kind),
            )
            self._families[name] = (family, family.Metric(labels=labels))
        return self._families[name][1]
