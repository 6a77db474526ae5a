"""Locust as processes of its own: alone, or a master with workers on loopback."""

import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from loadtest.generators import generator_environment
from loadtest.plan import LoadPlan
from loadtest.schedule import duration_s

LOCUSTFILE = Path(__file__).resolve().parent / "locustfile.py"
PLAN_VARIABLE = "UNIPINREC_LOAD_PLAN"
LOOPBACK = "127.0.0.1"
POLL_S = 0.2
GRACE_S = 30.0
"""Seconds that Locust may take to start and to stop."""


class LocustError(RuntimeError):
    """Locust failed."""


def run_locust(plan: LoadPlan, folder: Path, *, web_port: int | None = None) -> None:
    """Run the plan, and write `locust.html`, `locust_*.csv` and the plan's outcomes into `folder`.

    With a port, Locust serves its page there, on loopback only since it asks nobody who they are, and runs
    until Ctrl-C; each run that is started there overwrites the outcomes.

    Raises:
        LocustError: it ended with an error, or not at all; its log says why.
    """
    path = folder / "plan.json"
    plan.write(path)
    Path(plan.outcomes).unlink(missing_ok=True)
    with ExitStack() as stack:
        workers: list[subprocess.Popen[bytes]] = []
        port = _free_port() if plan.workers > 1 else None
        main = _start(stack, _main_options(plan, folder, web_port, port), path, folder / "locust.log")
        if port is not None:
            options = ["--worker", f"--master-host={LOOPBACK}", f"--master-port={port}"]
            workers = [
                _start(stack, options, path, folder / f"worker-{index}.log") for index in range(plan.workers)
            ]
        longest_s = math.inf if web_port else duration_s(plan.stages) + plan.timeout_s + GRACE_S
        _wait(main, workers, longest_s, folder / "locust.log")
    if not web_port and not Path(plan.outcomes).is_file():
        raise LocustError(f"Locust wrote no outcomes; log: {folder / 'locust.log'}")


def _main_options(plan: LoadPlan, folder: Path, web_port: int | None, port: int | None) -> list[str]:
    options = [f"--html={folder / 'locust.html'}", f"--csv={folder / 'locust'}", f"--host={plan.url}"]
    options.append(f"--stop-timeout={plan.timeout_s:g}")
    if web_port:
        options += [f"--web-host={LOOPBACK}", f"--web-port={web_port}"]
    else:
        options += ["--headless", "--only-summary"]
    if port is not None:
        options += ["--master", f"--master-bind-host={LOOPBACK}", f"--master-bind-port={port}"]
        options.append(f"--expect-workers={plan.workers}")
    return options


def _start(stack: ExitStack, options: Sequence[str], plan: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *options],
            env=generator_environment(**{PLAN_VARIABLE: str(plan)}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which then ends Locust in order.
            start_new_session=True,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _wait(
    main: subprocess.Popen[bytes], workers: Sequence[subprocess.Popen[bytes]], longest_s: float, log: Path
) -> None:
    began = time.monotonic()
    while main.poll() is None:
        if time.monotonic() - began > longest_s:
            raise LocustError(f"Locust has not ended after {longest_s:.0f} s; log: {log}")
        failed = [worker for worker in workers if worker.poll()]
        if failed:
            raise LocustError(
                f"a worker ended with code {failed[0].returncode}; log: {log.parent / 'worker-0.log'}"
            )
        time.sleep(POLL_S)
    # Locust ends with 1 where a request failed, which is for the thresholds to judge.
    if main.returncode not in (0, 1):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise LocustError(
            f"Locust ended with code {main.returncode}: {(lines or ['no output'])[-1]}; log: {log}"
        )


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])
