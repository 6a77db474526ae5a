"""Docker or Podman, and what was run with it."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

ENGINES = ("docker", "podman")


class NoEngineError(RuntimeError):
    """No container engine can be used on this host; one line with a remedy."""


class EngineError(RuntimeError):
    """A command of the engine failed; one line."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Step:
    """One command that was run."""

    command: str
    """As it can be pasted into a shell."""
    seconds: float
    """How long it took."""


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
        """The first of `ENGINES` that is installed and answers.

        Raises:
            NoEngineError: there is none.
        """
        for program in ENGINES:
            if shutil.which(program):
                answer = subprocess.run([program, "info"], capture_output=True, check=False)
                if answer.returncode == 0:
                    return cls(program=program, report=report)
        raise NoEngineError(
            "image-check builds and runs an image, which needs a container engine; none answers here. "
            "Allowed: docker with its engine running, or podman"
        )

    def run(self, *arguments: str, shown: bool = False) -> str:
        """What a command of the engine prints; `shown` lets it print to the terminal instead.

        Raises:
            EngineError: it ended with another exit code than 0.
        """
        return run([self.program, *arguments], self.report, self.steps, shown=shown)

    def try_out(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str] | None:
        """A command that may fail, is neither said nor noted, and counts as None after `timeout_s`."""
        command = [self.program, *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return None

    def has_image(self, name: str) -> bool:
        """Whether an image of this name is stored."""
        answer = self.try_out("image", "inspect", name, timeout_s=60)
        return answer is not None and answer.returncode == 0

    def image_bytes(self, name: str) -> int:
        """Bytes of all layers of an image, unpacked."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", name))


def run(
    command: Sequence[str], report: Callable[[str], None], steps: list[Step], *, shown: bool = False
) -> str:
    """What a command prints on stdout; it is said before and noted after it has run.

    Raises:
        EngineError: it ended with another exit code than 0, or is not installed.
    """
    line = shlex.join(command)
    report(f"$ {line}")
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=not shown, text=True, check=False)
    except FileNotFoundError:
        raise EngineError(f"{command[0]} is not installed; run: apt-get install {command[0]}") from None
    steps.append(Step(command=line, seconds=round(time.monotonic() - began, 2)))
    if done.returncode != 0:
        last = (done.stderr or "see above").strip().splitlines()[-1]
        raise EngineError(f"{shlex.join(command[:2])} ended with {done.returncode}: {last}")
    return (done.stdout or "").strip()
