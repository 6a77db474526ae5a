"""Exploration logs: requests that were served by a known chance with the weights of some arm, and what came.

Shapes: R requests, M rewards, K arms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.config import Config
from unipinrec.data.arms import Arms


class ExplorationInfo(Config):
    """What an exploration log says of itself, `exploration.json`."""

    name: str
    arms: Arms
    synthetic: bool
    """Whether a simulator made it; what is learned from it says so."""
    sha256: str = ""
    """Of the table beside this file, set when the log is written."""

    @property
    def rewards(self) -> tuple[str, str]:
        """Return the actions that are rewarded: those whose weights vary, in their order."""
        first, second = self.arms.varied
        return first.action, second.action


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationLog:
    """Logged requests by time."""

    info: ExplorationInfo
    request_id_R: NDArray[np.object_]
    user_id_R: NDArray[np.object_]
    timestamp_R: Int64s
    """Unix seconds of the request. Its state is made of the user's events before it."""
    surface_R: Int64s
    explored_R: Bools
    """Whether the arm was drawn; otherwise it is production's or a policy's choice."""
    arm_R: Int64s
    propensity_R: Float64s
    """Chance with which the logged arm was drawn, among explored requests."""
    reward_RM: Float64s
    """From 0 to 1: by default whether at least one of the served items got the action (PRL-PUTS §3.1)."""

    def __len__(self) -> int:
        return len(self.request_id_R)

    def __getitem__(self, chosen: slice | Int64s | Bools) -> "ExplorationLog":
        """Return some of the requests, in order."""
        columns = {name: getattr(self, name)[chosen] for name in self.__slots__ if name != "info"}
        return ExplorationLog(info=self.info, **columns)
