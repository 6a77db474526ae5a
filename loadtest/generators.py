"""The generator processes of one run, which take their orders together."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from loadtest.answers import RecordedAnswer
from loadtest.generator import WindowPlan
from loadtest.outcomes import Outcome
from loadtest.plan import LoadPlan

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = (sys.executable, "-m", "gevent.monkey", "--module", "loadtest.generator")


class GeneratorError(RuntimeError):
    """A process of the load generator failed."""


def generator_environment(**more: str) -> Mapping[str, str]:
    """Return the variables of a child process that finds this package, and does without the fork handlers of
    gRPC."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "client"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "GRPC_VERBOSITY": "ERROR", **more}


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of an order."""

    outcomes: list[Outcome]
    """All outcomes, in order of when they were due."""
    answers: list[RecordedAnswer]
    """Answers that were kept."""
    cpu_s: float
    """Processor seconds that generating the load took."""


class Generators:
    """As many processes as the plans of their orders have workers, ended with the block."""

    def __init__(self, workers: int, folder: Path) -> None:
        self._workers = workers
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        for index in range(self._workers):
            with (self._folder / f"generator-{index}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [*GENERATOR, str(index)],
                        env=generator_environment(),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                    )
                )
        try:
            self._read()
        except GeneratorError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self, plan: LoadPlan, window: WindowPlan) -> None:
        """Begin a window; `await_mark` twice and then `finish` await it.

        Raises:
            GeneratorError: a process ended; its log says why.
        """
        order = json.dumps({"plan": asdict(plan), "window": asdict(window)})
        for process in self._processes:
            stdin = cast(IO[str], process.stdin)
            try:
                stdin.write(order + "\n")
                stdin.flush()
            except BrokenPipeError:
                raise self._ended() from None

    def await_mark(self) -> list[float]:
        """Return the unix seconds at which the window began, or ended, in each process."""
        return [float(mark) for mark in self._read()]

    def finish(self) -> Generated:
        """Return what all processes saw."""
        found = self._read()
        return Generated(
            sorted(Outcome(*row) for fields in found for row in fields["outcomes"]),
            [RecordedAnswer.of_fields(answer) for fields in found for answer in fields["answers"]],
            sum(fields["cpu_s"] for fields in found),
        )

    def _read(self) -> list[Any]:
        """Return the next line of each process."""
        lines = [process.stdout.readline() if process.stdout else "" for process in self._processes]
        if not all(lines):
            raise self._ended()
        return [json.loads(line) for line in lines]

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _ended(self) -> GeneratorError:
        logs = [self._folder / f"generator-{index}.log" for index in range(len(self._processes))]
        said = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return GeneratorError(f"a load generator ended: {(said or ['no output'])[-1]}; log: {logs[0]}")
