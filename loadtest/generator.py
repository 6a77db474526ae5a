"""One process of load without Locust: `python -m gevent.monkey --module loadtest.generator plan index`.

Once ready it says so, reads a window as a line of JSON, writes the outcomes to the file that this names, and
answers with a line. Its traffic goes on from window to window, so that the server's cache stays as it is in
steady load.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import grpc.experimental.gevent

from loadtest.loops import closed_loop, open_loop
from loadtest.outcomes import OutcomeLog, write_outcomes
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals, Stage, arrivals
from loadtest.sender import connect

READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOrder:
    """What the generators are to do next, together."""

    arrivals: Arrivals
    level: float
    """Users, or requests a second, of all generators."""
    seconds: float
    seed: int
    outcomes: str
    """Path of the file for the outcomes, to which each generator adds its number."""

    def as_line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Self:
        """Parse JSON."""
        fields = json.loads(line)
        return cls(**fields | {"arrivals": Arrivals(fields["arrivals"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A generator's answer to an order."""

    cpu_s: float
    """Processor seconds that it used for the window."""


def main() -> None:
    """Serve orders until the input ends."""
    grpc.experimental.gevent.init_gevent()
    plan = LoadPlan.parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
    index = int(sys.argv[2])
    sender, traffic = connect(plan), plan.open_traffic(index)
    print(READY, flush=True)
    for line in sys.stdin:
        order = WindowOrder.of_line(line)
        log, before_s = OutcomeLog(), _cpu_s()
        if order.arrivals is Arrivals.CLOSED:
            users = len(range(index, round(order.level), plan.workers))
            closed_loop(sender, traffic, users, order.seconds, log.add)
        else:
            stage = Stage(seconds=order.seconds, level=order.level)
            due_S = arrivals([stage], order.arrivals, order.seed)[index :: plan.workers]
            open_loop(sender, traffic, due_S, log.add)
        write_outcomes(Path(f"{order.outcomes}.{index}"), log.take())
        print(json.dumps(asdict(Done(cpu_s=_cpu_s() - before_s))), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
