"""A policy node that misbehaves as a file tells it, so that a test can break it while it serves."""

import os
import time
from pathlib import Path

import numpy as np

from ensemble.arrays import Floats
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.policy import PolicyNode
from ensemble.policy.value_graph import ValueGraph
from unipinrec.models.policy.state import Windows

FAULT = "UNIPINREC_TEST_POLICY_FAULT"
"""Variable with the path of the file: `raise`, `nan` or `slow`; nothing for none."""
SLOW_S = 0.3


class FaultyGraph(ValueGraph):
    """A value network that fails in the way that the file says."""

    def values(self, windows: Windows) -> Floats:
        fault = Path(os.environ[FAULT]).read_text()
        if fault == "raise":
            raise FloatingPointError("the test asked for it")
        if fault == "slow":
            time.sleep(SLOW_S)
        value_BK2 = super().values(windows)
        return np.full_like(value_BK2, np.nan) if fault == "nan" else value_BK2


class FaultyPolicyNode(PolicyNode):
    """The node with that network."""

    def make_graph(self, loaded: LoadedBundle) -> ValueGraph:
        return FaultyGraph(loaded, self._config, self._card)
