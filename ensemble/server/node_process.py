"""A process of a node, and whether it is of use."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

import psutil

from ensemble.nodes.busy import busy_since

STOPPED_S = 1.0
"""Shorter stops are somebody's who looks at the process."""
IDLE_SHARE = 0.05
"""Share of a core that the threads of a node use at most while it computes nothing."""
LONGEST_BATCH_S = 120.0


class Fate(StrEnum):
    """What became of a node's process."""

    DIED = "died"
    STOPPED = "was stopped"
    HUNG = "hung"
    UNHEALTHY = "is unhealthy"
    """It lives, and Triton does not reach it."""
    MISSING = "is not loaded"


@dataclass(slots=True)
class NodeProcess:
    """One instance of a model."""

    model: str
    instance: str
    """Triton's name for it: `ranking_0_1`."""
    process: psutil.Process
    _stopped_since: float | None = None
    _batch: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))
    """When the batch began that it computes, when it was first seen at it, and its processor seconds then."""

    @classmethod
    def of(cls, process: psutil.Process) -> Self | None:
        """Return what a child of the server is; None if it is no node, or has ended."""
        try:
            arguments = process.cmdline()
        except psutil.Error:
            return None
        paths = [Path(argument) for argument in arguments if argument.endswith("/model.py")]
        if not paths:
            return None
        model = paths[0].parent.parent.name
        named = re.compile(re.escape(model) + r"_\d+_\d+")
        return cls(model, next(filter(named.fullmatch, arguments), model), process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    @property
    def runs(self) -> bool:
        """Whether it is there, and not stopped."""
        try:
            status = self.process.status()
        except psutil.NoSuchProcess:
            return False
        return status not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

    def fate(self, now: float, folder: Path, hang_s: float) -> Fate | None:
        """Return what is wrong with it at `now` by `time.monotonic()`, None if nothing is.

        It hangs when it has been at one batch for `hang_s` seconds without computing: a slow one uses a
        processor or waits for one. `folder` is the runtime folder in which it says since when.
        """
        try:
            status = self.process.status()
            used_s = sum(self.process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            return Fate.DIED
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return Fate.DIED
        if status != psutil.STATUS_STOPPED:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since >= STOPPED_S:
            return Fate.STOPPED
        return Fate.HUNG if self._hangs(now, status, used_s, busy_since(folder, self.pid), hang_s) else None

    def _hangs(self, now: float, status: str, used_s: float, began: float, hang_s: float) -> bool:
        batch_began, seen, used_before_s = self._batch
        if began != batch_began:
            self._batch = (began, now, used_s)
            return False
        took_s = now - seen
        if not began or took_s < hang_s:
            return False
        waits = status == psutil.STATUS_SLEEPING and used_s - used_before_s < IDLE_SHARE * took_s
        return waits or took_s >= LONGEST_BATCH_S
