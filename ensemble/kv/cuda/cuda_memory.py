"""Device memory that crosses processes by CUDA's IPC handles.

PyTorch's own allocator shares blocks of a size and lifetime that it decides on; a pool wants one allocation
that is its own, so it is made by the CUDA runtime itself.
"""

import ctypes
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import runtime
from torch import Tensor

from ensemble.kv.cuda.device_memory import releasing

HANDLE_BYTES = 64
RETRY_S = 0.25
ALLOCATION_WAIT_S = 10.0
"""A predecessor's memory is free once ranking has let go of it, which its directory of pools soon does."""


class CudaError(Exception):
    """The CUDA runtime refused a call."""


class CudaAllocator:
    """Allocates memory of one GPU, and maps what other processes allocated there."""

    def __init__(self, device: torch.device, wait_s: float = ALLOCATION_WAIT_S) -> None:
        """`wait_s` is how long an allocation waits for room."""
        self.device = device
        self._wait_s = wait_s

    def allocate(self, size: int, folder: Path) -> "CudaMemory":
        """Return zeroed memory of so many bytes on the device; `folder` stays empty."""
        del folder
        _call("cudaSetDevice", self.device.index or 0)
        pointer = self._malloc(size)
        _call("cudaMemset", pointer, 0, size)
        _call("cudaDeviceSynchronize")
        handle = _call("cudaIpcGetMemHandle", pointer)
        return CudaMemory(pointer, size, self.device, _to_text(handle), "cudaFree")

    def open(self, handle: str, size: int) -> "CudaMemory":
        """Return the memory behind another process's CUDA IPC handle."""
        _call("cudaSetDevice", self.device.index or 0)
        try:
            pointer = _call(
                "cudaIpcOpenMemHandle", _from_text(handle), runtime.cudaIpcMemLazyEnablePeerAccess
            )
        except CudaError as error:
            raise FileNotFoundError(f"the device memory of a KV pool cannot be mapped: {error}") from error
        return CudaMemory(pointer, size, self.device, handle, "cudaIpcCloseMemHandle")

    def synchronize(self) -> None:
        """Return when all that was launched on the device is complete."""
        torch.cuda.current_stream(self.device).synchronize()

    def _malloc(self, size: int) -> int:
        deadline = time.monotonic() + self._wait_s
        while True:
            error, pointer = runtime.cudaMalloc(size)
            if error == runtime.cudaError_t.cudaSuccess:
                return int(pointer)
            if error != runtime.cudaError_t.cudaErrorMemoryAllocation:
                raise CudaError(f"cudaMalloc: {_name(error)}")
            # The failure is also noted as the last error, which PyTorch would take for its own.
            runtime.cudaGetLastError()
            if time.monotonic() > deadline:
                free, total = _call("cudaMemGetInfo")
                raise MemoryError(
                    f"the KV pool needs {size >> 20} MiB on {self.device}; {free >> 20} of {total >> 20} MiB "
                    "are free. Use fewer pool slots"
                )
            time.sleep(RETRY_S)


class CudaMemory:
    """One allocation of CUDA's, or another process's mapped here."""

    def __init__(self, pointer: int, size: int, device: torch.device, handle: str, release: str) -> None:
        """`release` names the runtime's function that gives the memory back."""
        self.handle = handle
        holder = _Holder(pointer, size)
        # The tensor keeps the holder, so that no view outlives the mapping.
        # A normal tensor whoever asks: for an inference tensor, everything would be compiled anew.
        with torch.inference_mode(False):
            self.bytes: Tensor = torch.as_tensor(holder, device=device)
        weakref.finalize(holder, _give_back, device.index or 0, release, pointer).atexit = False


class _Holder:
    """Memory as PyTorch and others take it without a copy."""

    def __init__(self, pointer: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }


def _give_back(device: int, release: str, pointer: int) -> None:
    # Kernels may still be reading; at the end of a process the driver does all of this itself.
    with releasing():
        _call("cudaSetDevice", device)
        _call("cudaDeviceSynchronize")
        _call(release, pointer)


def _call(name: str, *arguments: Any) -> Any:
    """Return what a function of the runtime returns. Raises `CudaError` if it failed."""
    error, *results = getattr(runtime, name)(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        runtime.cudaGetLastError()
        raise CudaError(f"{name}: {_name(error)}")
    return results[0] if len(results) == 1 else tuple(results)


def _name(error: Any) -> str:
    return str(getattr(error, "name", error))


def _to_text(handle: Any) -> str:
    return ctypes.string_at(int(handle.getPtr()), HANDLE_BYTES).hex()


def _from_text(text: str) -> Any:
    handle = runtime.cudaIpcMemHandle_t()
    ctypes.memmove(int(handle.getPtr()), bytes.fromhex(text), HANDLE_BYTES)
    return handle
