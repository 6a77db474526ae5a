"""A further question that a report answers beside its main comparison: several ways to use trained models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.report import Difference, Row, Section
from experiments.scores import Values, mean_values


@dataclass(frozen=True, slots=True)
class Answers:
    """What one way of asking gives, with one trained model."""

    metrics: dict[str, Values]
    totals: dict[str, float] = field(default_factory=dict)
    """Statistics of all users together."""


Run = Mapping[str, Answers]
"""Ways of asking, by name, with the models of one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How the answers of several seeds become tables."""

    title: str
    what: str
    ways: Mapping[str, str]
    """Every way of asking, and one line about it."""
    compared: Sequence[tuple[str, str, str]]
    """Paired differences to report: way, other way, metric."""

    def section(self, runs: Sequence[Run]) -> Section:
        """Return means over seeds, with intervals over users."""
        values = {
            way: {
                name: mean_values([run[way].metrics[name] for run in runs]) for name in runs[0][way].metrics
            }
            for way in self.ways
        }
        rows = [
            Row(
                model=way,
                what=what,
                metrics={name: found.estimate() for name, found in values[way].items()},
                totals={
                    name: float(np.mean([run[way].totals[name] for run in runs]))
                    for name in runs[0][way].totals
                },
                by_seed={
                    name: tuple(float(run[way].metrics[name].value_X.mean()) for run in runs)
                    for name in values[way]
                },
            )
            for way, what in self.ways.items()
        ]
        differences = [
            Difference(a=a, b=b, metric=metric, estimate=values[a][metric].minus(values[b][metric]))
            for a, b, metric in self.compared
        ]
        return Section(title=self.title, what=self.what, rows=tuple(rows), differences=tuple(differences))
