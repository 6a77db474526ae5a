"""The generator processes of one run, which take their orders together."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest.generator import Done, WindowOrder
from loadtest.outcomes import Outcome, read_outcomes
from loadtest.plan import LoadPlan

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = (sys.executable, "-m", "gevent.monkey", "--module", "loadtest.generator")


class GeneratorError(RuntimeError):
    """A process of the load generator failed."""


def generator_environment(**more: str) -> Mapping[str, str]:
    """Variables of a child process that finds this package, and does without the fork handlers of gRPC."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "client"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "GRPC_VERBOSITY": "ERROR", **more}


class Generators:
    """As many processes as the plan has workers, ended with the block."""

    def __init__(self, plan: LoadPlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        path = self._folder / "plan.json"
        self._plan.write(path)
        for index in range(self._plan.workers):
            with (self._folder / f"generator-{index}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [*GENERATOR, str(path), str(index)],
                        env=generator_environment(),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                    )
                )
        try:
            for process in self._processes:
                self._line(process)
        except GeneratorError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self, order: WindowOrder) -> None:
        """Begin a window; `finish` awaits it."""
        for process in self._processes:
            if process.stdin is None:
                raise GeneratorError("a generator has no input")
            try:
                process.stdin.write(order.as_line())
                process.stdin.flush()
            except BrokenPipeError:
                raise self._ended() from None

    def finish(self, order: WindowOrder) -> tuple[list[Outcome], float]:
        """All outcomes of the window, and the processor seconds that generating it took.

        Raises:
            GeneratorError: a process ended; its log says why.
        """
        outcomes, cpu_s = [], 0.0
        for index, process in enumerate(self._processes):
            cpu_s += Done(**json.loads(self._line(process))).cpu_s
            path = Path(f"{order.outcomes}.{index}")
            outcomes += read_outcomes(path)
            path.unlink()
        return sorted(outcomes), cpu_s

    def _line(self, process: subprocess.Popen[str]) -> str:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise self._ended()
        return line

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _ended(self) -> GeneratorError:
        logs = [self._folder / f"generator-{index}.log" for index in range(len(self._processes))]
        said = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return GeneratorError(f"a load generator ended: {(said or ['no output'])[-1]}; log: {logs[0]}")
