"""Windows of load on one server, one after another, with what the server used in each."""

import time
from dataclasses import dataclass

from loadtest.answers import RecordedAnswer
from loadtest.generator import WindowPlan
from loadtest.generators import Generators
from loadtest.measures import Measured, measure
from loadtest.outcomes import Outcome
from loadtest.plan import LoadPlan
from loadtest.watch import NodeTime, ServerWatch, Usage, node_times, usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window."""

    plan: WindowPlan
    measured: Measured
    usage: Usage
    """Processors that were used in the window."""
    nodes: dict[str, NodeTime]
    """What requests spent at each model, warm-up included; empty without a metrics endpoint."""
    generator_cores: float
    """Cores that all generators together used."""
    outcomes: list[Outcome]
    """Warm-up included."""
    answers: list[RecordedAnswer]
    """Answers that were kept."""
    began_s: float
    """Unix seconds of the begin of the load."""

    def saturated(self) -> str:
        """Return what to blame for a rate that cannot be exceeded, as a sentence."""
        return self.usage.saturated(self.generator_cores, self.nodes)


class Windows:
    """Runs windows with running generators, which are as many as the plan's workers."""

    def __init__(self, generators: Generators, watch: ServerWatch) -> None:
        self._generators = generators
        self._watch = watch

    def run(self, plan: LoadPlan, window: WindowPlan) -> Window:
        """Return what one window of load came to.

        Raises:
            GeneratorError: a generator failed.
            NothingMeasuredError: nothing was answered.
        """
        counted = self._watch.counters()
        began_s = time.time()
        self._generators.start(plan, window)
        begins_s = self._generators.await_mark()
        before = self._watch.processors()
        ends_s = self._generators.await_mark()
        used = usage(before, self._watch.processors())
        generated = self._generators.finish()
        begin_s, end_s = min(begins_s), max(ends_s)
        return Window(
            plan=window,
            measured=measure(generated.outcomes, window.arrivals, begin_s, end_s),
            usage=used,
            nodes=node_times(counted, self._watch.settled_counters()),
            generator_cores=generated.cpu_s / (time.time() - began_s),
            outcomes=generated.outcomes,
            answers=generated.answers,
            began_s=began_s,
        )

    def first_pass(self, plan: LoadPlan, window: WindowPlan) -> list[Outcome]:
        """Return the outcomes of the first visits that the window asks for.

        Raises:
            GeneratorError: a generator failed.
        """
        self._generators.start(plan, window)
        self._generators.await_mark()
        self._generators.await_mark()
        return self._generators.finish().outcomes
