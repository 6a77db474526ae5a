"""Docker or Podman, and what was run with it."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ENGINES = ("docker", "podman")


class NoEngineError(RuntimeError):
    """No container engine can be used on this host; one line with a remedy."""


class EngineError(RuntimeError):
    """A command of the engine failed; one line."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Step:
    """A command that was run."""

    command: str
    """As it can be pasted into a shell."""
    seconds: float


@dataclass(kw_only=True, slots=True)
class Engine:
    """A container engine that answers, and a list of all that it was asked to do."""

    program: str
    """`docker` or `podman`."""
    report: Callable[[str], None]
    """Where each command is said before it runs."""
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def find(cls, report: Callable[[str], None]) -> "Engine":
        """Return the first of `ENGINES` that is installed and answers.

        Raises:
            NoEngineError: there is none.
        """
        for program in ENGINES:
            engine = cls(program=program, report=report)
            if shutil.which(program) and engine.succeeds("info"):
                return engine
        raise NoEngineError(
            "image-check builds and runs an image, which needs a container engine; none answers here. "
            "Allowed: docker with its engine running, or podman"
        )

    def run(self, *arguments: str, program: str | None = None, shown: bool = False) -> str:
        """Return what a command of the engine, or of `program`, prints; `shown` lets it print to the terminal
        instead.

        Raises:
            EngineError: it ended with another exit code than 0, or is not installed.
        """
        command = [program or self.program, *arguments]
        line = shlex.join(command)
        self.report(f"$ {line}")
        began = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=not shown, text=True, check=False)
        except FileNotFoundError:
            raise EngineError(f"{command[0]} is not installed; run: apt-get install {command[0]}") from None
        self.steps.append(Step(command=line, seconds=round(time.monotonic() - began, 2)))
        if done.returncode != 0:
            last = (done.stderr or "see above").strip().splitlines()[-1]
            raise EngineError(f"{shlex.join(command[:2])} ended with {done.returncode}: {last}")
        return (done.stdout or "").strip()

    def try_out(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str] | None:
        """Run a command that may fail, and is neither said nor noted; return None after `timeout_s`."""
        command = [self.program, *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return None

    def succeeds(self, *arguments: str, timeout_s: float = 60) -> bool:
        """Return whether such a command ends in time and with exit code 0."""
        done = self.try_out(*arguments, timeout_s=timeout_s)
        return done is not None and done.returncode == 0
