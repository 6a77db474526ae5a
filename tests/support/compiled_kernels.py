"""Compile Triton's kernels for GPUs that are not there, exactly as they would be launched."""

from dataclasses import dataclass
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class AbsentGpu:
    """What the compiler asks of a driver. Kernels are kept by device, so its capability is its number."""

    capability: int
    """80 is compute capability 8.0."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_launches(capability: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let every launch from now on compile its kernel and return at once; it joins the list."""
    compiled: list[Any] = []

    def launcher(kernel: Any, grid: tuple[int, ...]) -> Any:
        return lambda *given, **constants: compiled.append(
            kernel.run(*given, grid=grid, warmup=True, **constants)
        )

    monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
    monkeypatch.setattr(JITFunction, "__getitem__", launcher)
    return compiled
