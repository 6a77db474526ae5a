"""The nodes of a bundle, in this process instead of a server's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.ann import AnnNode
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.node import Node
from ensemble.nodes.ranking import RankingNode
from ensemble.nodes.retrieval import RetrievalNode
from ensemble.nodes.scoring import ScoringNode
from ensemble.server.runtime_folder import claim_folder, remove_folder
from ensemble.settings import ServingSettings


@contextmanager
def nodes_in_process(settings: ServingSettings) -> Iterator[dict[str, Node[Any, Any]]]:
    """Yield the nodes by their names in the repository, with a pool of their own."""
    folder, lock = claim_folder(settings.runtime_dir)
    chosen = settings.sealing().model_copy(update={"runtime_dir": folder})
    loaded = LoadedBundle.open(settings.bundle)
    engine = CpuEngine(loaded, settings.kv_precision)
    nodes: dict[str, Node[Any, Any]] = {
        "history": HistoryNode(loaded, chosen),
        "retrieval": RetrievalNode(loaded, chosen, engine, "retrieval_0"),
        "retrieval_separate": RetrievalNode(loaded, chosen, engine),
        "ann": AnnNode(loaded, chosen),
        "ranking": RankingNode(loaded, chosen, engine),
        "scoring": ScoringNode(loaded, chosen),
    }
    try:
        yield nodes
    finally:
        for node in nodes.values():
            node.close()
        remove_folder(folder)
        os.close(lock)
