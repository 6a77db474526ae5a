"""Host memory where a test has no GPU: shared by a file as a GPU's is by a handle, and given back alike."""

import mmap
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.kv.cuda.device_memory import DeviceMemory
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.slot_storage import SlotLayout
from ensemble.loaded_bundle import LoadedBundle


class StandInMemory:
    def __init__(self, path: Path, size: int) -> None:
        self.handle = str(path)
        with path.open("r+b") as file:
            self.bytes: Tensor = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)


class StandInAllocator:
    """Host memory as if it were a device's; counts what is mapped, and notes when writers waited."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.mapped = 0
        self.waits = 0
        self._made = 0

    def allocate(self, size: int, folder: Path) -> DeviceMemory:
        self._made += 1
        path = folder / f"device-{id(self)}-{self._made}"
        path.write_bytes(bytes(size))
        return self._map(path, size)

    def open(self, handle: str, size: int) -> DeviceMemory:
        path = Path(handle)
        if not path.exists():
            raise FileNotFoundError(handle)
        return self._map(path, size)

    def synchronize(self) -> None:
        self.waits += 1

    def _map(self, path: Path, size: int) -> DeviceMemory:
        memory = StandInMemory(path, size)
        self.mapped += 1
        weakref.finalize(memory.bytes.untyped_storage(), self._unmap)
        return memory

    def _unmap(self) -> None:
        self.mapped -= 1


class StandInPools:
    """Pools in the memory of one allocator, as `GpuEngine` makes and opens them."""

    def __init__(self, spare: int = 2) -> None:
        self.allocator = StandInAllocator()
        self._spare = spare

    def create(self, base: Path, layout: SlotLayout) -> DeviceStorage:
        return DeviceStorage.create(base.parent, layout, self._spare, self.allocator)

    def open(self, folder: Path, fields: Mapping[str, Any]) -> DeviceStorage:
        del folder
        return DeviceStorage.open(fields, self.allocator)

    def close(self, storage: DeviceStorage) -> None:
        """Nothing is kept."""


def eager_engine(
    loaded: LoadedBundle, allocator: StandInAllocator | None = None, **options: Any
) -> GpuEngine:
    """The GPU's engine on a CPU, without compilation or capture."""
    chosen: dict[str, Any] = {"precision": "float32", "batches": (1, 4)}
    return GpuEngine(
        loaded,
        allocator or StandInAllocator(),
        GpuOptions(compiled=lambda function: function, capture=False, **(chosen | options)),
    )
