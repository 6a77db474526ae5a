"""Which models of a repository serve a bundle."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Self

from ensemble.graph import Graph, ensembles_in, read_config
from ensemble.nodes.contract import COMMAND
from ensemble.settings import ServingSettings

BASELINE = "recommend_separate"
"""The ensemble of two separately served models, to measure against."""
BUNDLE_MODEL = "bundle_model"
"""Parameter of a model's configuration: models of a bundle, without which there is nothing for it to do. With
one of them there is."""
SETTING = "setting"
"""Parameter of a model's configuration: the setting without which it is left out."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The models that are loaded for a bundle, by their names in the repository."""

    ensembles: tuple[str, ...]
    """Each is asked by canaries and drained at a stop."""
    nodes: tuple[str, ...]
    """The steps of the ensembles, each behind those whose outputs it reads."""
    alone: tuple[str, ...]
    """Models that no ensemble has as a step; callers name them."""
    commanded: tuple[str, ...]
    """Those of them that a command asks how they are."""
    not_served: tuple[str, ...]
    """The ensembles that a bundle with one more model would have."""

    @classmethod
    def of(
        cls, model_repository: Path, settings: ServingSettings, held: Set[str] | None, *, baseline: bool
    ) -> Self:
        """Return what serves a bundle that holds these models, None if that is unknown; `baseline` adds
        `recommend_separate` and its nodes."""
        paths = model_repository.glob("*/config.pbtxt")
        configs = {path.parent.name: read_config(path) for path in sorted(paths)}
        graphs = ensembles_in(model_repository)

        def is_spared(name: str) -> bool:
            needed, setting = (configs[name].parameters[key].string_value for key in (BUNDLE_MODEL, SETTING))
            lacks = bool(needed) and held is not None and held.isdisjoint(needed.split())
            return lacks or bool(setting and not getattr(settings, setting))

        spared = {name for name in configs if is_spared(name)}
        not_served = {name for name, graph in graphs.items() if graph.nodes & spared}
        served = graphs.keys() - not_served - (set() if baseline else {BASELINE})
        steps = {node for graph in graphs.values() for node in graph.nodes}
        alone = sorted(configs.keys() - graphs.keys() - steps - spared)
        return cls(
            ensembles=tuple(sorted(served)),
            nodes=tuple(_in_order(graphs[name] for name in sorted(served))),
            alone=tuple(alone),
            commanded=tuple(n for n in alone if any(t.name == COMMAND for t in configs[n].input)),
            not_served=tuple(sorted(not_served)),
        )


def _in_order(graphs: Iterable[Graph]) -> Iterator[str]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for graph in graphs:
        made: dict[str, str] = {}
        for step in graph.steps:
            sorter.add(step.node, *{made[name] for name in step.inputs.values() if name in made})
            made.update(dict.fromkeys(step.outputs.values(), step.node))
    return iter(sorter.static_order())
