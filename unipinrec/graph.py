"""The TorchScript graphs of a bundle."""

import warnings
from pathlib import Path

import torch


def load_graph(path: Path) -> torch.jit.ScriptModule:
    """A graph, ready to call."""
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is a format this project promises.
        warnings.simplefilter("ignore", DeprecationWarning)
        graph: torch.jit.ScriptModule = torch.jit.load(str(path))
    return graph
