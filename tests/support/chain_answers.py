"""Asks the nodes in a process of its own: `python -m tests.support.chain_answers BUNDLE HISTORIES OUT`.

The process computes with the instruction set that its environment asks for.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.history import HistoryNode
from ensemble.settings import ServingSettings
from tests.support.node_chain import NOW, Chain, Tensors

USERS = 64
NUMBERS = ("ITEM_IDS", "SCORES", "ACTION_PROBS", "RETRIEVED_BY")


def ask(chain: Chain) -> Tensors:
    """The answers to `USERS` stored histories, in one batch."""
    answers = chain(
        {
            "USER_ID": np.array([[f"user-{user}".encode()] for user in range(USERS)], np.object_),
            "REQUEST_TIME": np.full((USERS, 1), NOW),
            "NUM_RESULTS": np.full((USERS, 1), 20, np.int32),
        }
    )
    return {name: answers[name] for name in NUMBERS}


def main(bundle: Path, histories: Path, out: Path) -> None:
    """Writes the answers as an npz file."""
    loaded = LoadedBundle.open(bundle)
    with tempfile.TemporaryDirectory() as folder:
        settings = ServingSettings(
            histories=histories, runtime_dir=Path(folder), lease_ms=60_000, pool_slots=USERS
        )
        history = HistoryNode(loaded, settings)
        chain = Chain(loaded, settings, history)
        np.savez(out, **ask(chain))
        chain.close()
        history.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
