"""Since when a node computes one batch: eight bytes in the runtime folder, which the launcher reads."""

import mmap
import os
import struct
import time
from pathlib import Path
from types import TracebackType

BEGAN = struct.Struct("d")


class Busy:
    """A context that marks this process as computing. A node that never leaves it hangs."""

    def __init__(self, folder: Path) -> None:
        """Make the file of this process in the runtime folder."""
        with _path(folder, os.getpid()).open("w+b") as file:
            file.truncate(BEGAN.size)
            self._memory = mmap.mmap(file.fileno(), BEGAN.size)

    def __enter__(self) -> None:
        BEGAN.pack_into(self._memory, 0, time.monotonic())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        BEGAN.pack_into(self._memory, 0, 0.0)


def busy_since(folder: Path, pid: int) -> float:
    """Return the `time.monotonic()` at which a process began the batch that it computes, 0 if it computes
    none or does not tell."""
    try:
        told = _path(folder, pid).read_bytes()
    except FileNotFoundError:
        return 0.0
    return float(BEGAN.unpack(told)[0]) if len(told) == BEGAN.size else 0.0


def _path(folder: Path, pid: int) -> Path:
    return folder / f"busy-{pid}"
