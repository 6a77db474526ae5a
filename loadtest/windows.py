"""Windows of load on one server, one after another, with what the server used in each."""

import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.generator import WindowOrder
from loadtest.generators import Generators
from loadtest.measures import Measured, measure
from loadtest.outcomes import Outcome
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals
from loadtest.watch import ServerWatch, Usage, usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window."""

    arrivals: Arrivals
    level: float
    """Users, or requests a second."""
    measured: Measured
    usage: Usage
    generator_cores: float
    """Cores that all generators together used."""
    outcomes: list[Outcome]
    """Warm-up included."""
    began_s: float
    """Unix seconds."""


class Windows:
    """Runs windows with running generators."""

    def __init__(self, plan: LoadPlan, generators: Generators, watch: ServerWatch, folder: Path) -> None:
        self._plan = plan
        self._generators = generators
        self._watch = watch
        self._outcomes = folder / "window"
        self._count = 0

    def run(self, arrivals: Arrivals, level: float, *, seconds: float, warm_up_s: float) -> Window:
        """Load for `warm_up_s` and then `seconds`, which are measured.

        Raises:
            GeneratorError: a generator failed.
            NothingMeasuredError: nothing was answered.
        """
        self._count += 1
        order = WindowOrder(
            arrivals=arrivals,
            level=level,
            seconds=warm_up_s + seconds,
            seed=self._plan.seed + self._count,
            outcomes=str(self._outcomes),
        )
        began_s = time.time()
        self._generators.start(order)
        time.sleep(warm_up_s)
        before = self._watch.snapshot()
        time.sleep(seconds)
        used = usage(before, self._watch.snapshot())
        outcomes, cpu_s = self._generators.finish(order)
        return Window(
            arrivals=arrivals,
            level=level,
            measured=measure(outcomes, warm_up_s=warm_up_s, seconds=seconds, began_s=began_s),
            usage=used,
            generator_cores=cpu_s / (time.time() - began_s),
            outcomes=outcomes,
            began_s=began_s,
        )
