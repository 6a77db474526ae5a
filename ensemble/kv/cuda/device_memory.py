"""Memory of a device that several processes map: what a KV pool needs of it."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class DeviceMemory(Protocol):
    """One allocation, or another process's mapped here. It is given back when nobody refers to it or to its
    bytes any longer."""

    bytes: Tensor
    """UINT8 [size] on the device."""
    handle: str
    """What another process opens the same memory by."""


class DeviceAllocator(Protocol):
    """Makes memory that can be shared, and maps what another process has made."""

    device: torch.device

    def allocate(self, size: int, folder: Path) -> DeviceMemory:
        """Return zeroed memory of so many bytes. What the sharing needs in files stands in `folder`. Raises
        `MemoryError` if the device has no room."""

    def open(self, handle: str, size: int) -> DeviceMemory:
        """Return the memory behind a handle of an allocation of so many bytes. Raises `FileNotFoundError` if
        its owner is gone."""

    def synchronize(self) -> None:
        """Return when all that was launched is complete, and so visible to other processes."""


_releases = threading.RLock()


@contextmanager
def without_releases() -> Iterator[None]:
    """Keep all memory while this lasts: giving it back waits for the whole device, which the capture of a
    graph does not bear."""
    with _releases:
        collects = gc.isenabled()
        # A collection in this very thread could give memory back, too; the lock would let it.
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


@contextmanager
def releasing() -> Iterator[None]:
    """Wait until no graph is captured, and hold captures off while memory is given back."""
    with _releases:
        yield
