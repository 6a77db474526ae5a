"""A further question that a report answers beside its main comparison: several ways to use trained models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import Difference, Row, Section
from experiments.scores import Measured, by_seed
from experiments.variants import Variant

Run = Mapping[str, Measured]
"""Ways of asking, by name, with the models of one seed."""


class Question(ABC):
    """What is asked of trained models, and how the answers of several seeds become tables."""

    title: str
    what: str
    variants: Sequence[Variant]
    """The models that are asked."""
    ways: Mapping[str, str]
    """Every way of asking, and one line about it."""
    compared: Sequence[tuple[str, str, str]]
    """Paired differences to report: way, other way, metric."""

    @abstractmethod
    def answers(self, recommenders: Mapping[str, Any]) -> Run:
        """Return every way's answers with the models of one seed, which have the names of their variants."""

    def section(self, runs: Sequence[Run]) -> Section:
        """Return means over seeds, with intervals over users."""
        found = {way: Measured.mean([run[way] for run in runs]) for way in self.ways}
        rows = [
            Row(
                model=way,
                what=what,
                metrics=found[way].estimates(),
                totals=found[way].totals,
                by_seed=by_seed([run[way] for run in runs]),
            )
            for way, what in self.ways.items()
        ]
        differences = [
            Difference(a=a, b=b, metric=name, estimate=found[a].metrics[name].minus(found[b].metrics[name]))
            for a, b, name in self.compared
        ]
        return Section(title=self.title, what=self.what, rows=tuple(rows), differences=tuple(differences))
