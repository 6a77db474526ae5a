"""One process of load without Locust: `python -m gevent.monkey --module loadtest.generator index`.

It says `READY`, and then takes orders as lines of JSON. To each it answers with three lines: when the window
began, when it ended, and what became of it. Its traffic goes on from order to order of the same plan, so that
the server's cache stays as it is in steady load.
"""

import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import gevent
import grpc.experimental.gevent

from loadtest.answers import RecordedAnswer
from loadtest.histories import UserHistory
from loadtest.loops import Requests
from loadtest.outcomes import OK, Outcome
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals, Stage, arrivals
from loadtest.sender import Reply, Sender, connect
from loadtest.traffic import AnyTraffic, Visit

READY = "ready"
POLL_S = 0.01
LONGEST_S = 30.0
"""For which a window waits at most for its replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """What the generators are to do next, together."""

    arrivals: Arrivals
    level: float
    """Users, or requests a second, of all generators."""
    seconds: float = 0.0
    """Length of the window, at least."""
    warm_up_s: float = 0.0
    """Seconds of load before it."""
    least_replies: int = 0
    """Replies until which the window goes on, by its length again and again. If any are asked for, as many as
    there are users have come before the warm-up begins."""
    first_pass: int = 0
    """Users whose first visits are sent in place of all others, once."""
    keep_every: int = 0
    """Of so many requests, the answer of one is kept; 0 keeps none."""
    seed: int = 0
    """Seed of a schedule's gaps."""


class Recorder:
    """Everything that a generator saw of one order."""

    def __init__(self, keep_every: int) -> None:
        self.outcomes: list[Outcome] = []
        self.kept: list[tuple[UserHistory, Reply]] = []
        self._keep_every = keep_every

    def add(self, outcome: Outcome, visit: Visit, reply: Reply) -> None:
        """Note a reply, and keep its answer if it is its turn."""
        keeps = self._keep_every and len(self.outcomes) % self._keep_every == 0
        if keeps and reply.status == OK and visit.history is not None:
            self.kept.append((visit.history, reply))
        self.outcomes.append(outcome)

    def wait(self, seconds: float, replies: int) -> None:
        """Wait for so long, again and again until so many more replies have come.

        A wait that ended with a reply would cut a batch of them in two, and count too many or too few.
        """
        until, before = time.monotonic() + LONGEST_S, len(self.outcomes)
        gevent.sleep(seconds)
        while len(self.outcomes) < before + replies and time.monotonic() < until:
            gevent.sleep(seconds)


def main() -> None:
    """Serve orders until the input ends."""
    grpc.experimental.gevent.init_gevent()
    index, plan = int(sys.argv[1]), None
    _say(READY)
    for line in sys.stdin:
        order = json.loads(line)
        kind = Arrivals(order["window"]["arrivals"])
        window, asked = WindowPlan(**order["window"] | {"arrivals": kind}), LoadPlan.of_fields(order["plan"])
        if asked != plan:
            plan = asked
            sender, traffic = connect(plan), plan.open_traffic(index)
        _say(_run(window, sender, traffic, index, plan.workers))


def _run(window: WindowPlan, sender: Sender, traffic: AnyTraffic, index: int, workers: int) -> dict[str, Any]:
    before_s, stopped = _cpu_s(), False
    seen = Recorder(window.keep_every)
    requests = Requests(sender, traffic, seen.add)
    users = len(range(index, round(window.level), workers))
    scheduled = window.arrivals is not Arrivals.CLOSED
    if window.first_pass:
        visits = traffic.first_pass(len(range(index, window.first_pass, workers)))
        load = gevent.spawn(requests.send_all, lambda: next(visits, None), users)
    elif scheduled:
        stage = Stage(seconds=window.warm_up_s + window.seconds, level=window.level)
        load = gevent.spawn(requests.send_at, arrivals([stage], window.arrivals, window.seed)[index::workers])
    else:
        load = gevent.spawn(requests.send_all, lambda: None if stopped else traffic.next(), users)
    if window.least_replies:
        seen.wait(POLL_S, users)
    gevent.sleep(window.warm_up_s)
    clock = requests.clock
    # A schedule is counted from its own begin.
    begin_s = window.warm_up_s if scheduled else clock.elapsed_s()
    _say(clock.unix_s(begin_s))
    seen.wait(window.seconds, -(-window.least_replies // workers))
    _say(clock.unix_s(begin_s + window.seconds if scheduled else clock.elapsed_s()))
    stopped = True
    load.get()
    return {
        "cpu_s": _cpu_s() - before_s,
        "outcomes": seen.outcomes,
        "answers": [RecordedAnswer(history, reply.answer()).as_fields() for history, reply in seen.kept],
    }


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
