"""What a run computes on: a device and its precision, workers that load, processes that share the work."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Precision = Literal["float32", "bf16"]
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One process's share of the hardware. It changes how fast a run learns, and up to rounding not what."""

    device: torch.device = CPU
    precision: Precision = "float32"
    """`bf16`: matrix products in bfloat16; weights, optimiser and losses stay in float32."""
    workers: int = 0
    """Processes that load examples beside this one."""
    rank: int = 0
    processes: int = 1

    @classmethod
    def choose(cls, device: str | None, precision: str, workers: int) -> Self:
        """Return what the options and `torchrun`'s environment say; without a device, a GPU if there is one.

        `torchrun` gives each process of a host its own GPU.

        Raises `ValueError` if the device is not there, the processes cannot share it, or it has no bfloat16.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        found = _device(device, int(os.environ.get("LOCAL_RANK", 0)), processes)
        allowed = [name for name in get_args(Precision) if name == "float32" or _has_bfloat16(found)]
        if precision not in allowed:
            raise ValueError(f"precision is {precision}; allowed on {found}: {', '.join(allowed)}")
        chosen: Precision = "bf16" if precision == "bf16" else "float32"
        return cls(device=found, precision=chosen, workers=workers, rank=rank, processes=processes)

    @property
    def leads(self) -> bool:
        """Return whether this process writes checkpoints and shows progress."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[Self]:
        """Meet the other processes, if there are any, and leave them at the end."""
        if self.processes == 1:
            yield self
            return
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            yield self
        finally:
            dist.destroy_process_group()

    def parallel(self, objective: nn.Module) -> nn.Module:
        """Return the objective with gradients averaged over processes in the backward pass.

        Buffers are not exchanged: every process computes them from the whole batch.
        """
        if self.processes == 1:
            return objective
        return DistributedDataParallel(objective, forward_sync_buffers=False, find_unused_parameters=True)

    def autocast(self) -> AbstractContextManager[None]:
        """Compute matrix products in the run's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def total(self, share: Tensor) -> Tensor:
        """Return the sum over processes; each of them has to ask."""
        total = share.clone()
        if self.processes > 1:
            dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.processes > 1:
            dist.barrier()


def _device(name: str | None, local_rank: int, processes: int) -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if name is None:
        name = "cuda" if gpus else "cpu"
    if name not in named:
        raise ValueError(f"device is {name}; allowed here: {', '.join(named)}")
    if name == "cuda" and local_rank >= gpus:
        raise ValueError(
            f"process {local_rank} of this host has no GPU of its own; allowed: {gpus} processes"
        )
    if ":" in name and processes > 1:
        raise ValueError(f"device is {name}, which {processes} processes cannot share; allowed: cpu, cuda")
    return torch.device(f"cuda:{local_rank}" if name == "cuda" else name)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
