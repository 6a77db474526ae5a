"""What one evaluation found, as the JSON file that tables are made of."""

import os
import platform
from pathlib import Path

import torch
from pydantic import Field

from unipinrec.config import Config
from unipinrec.evaluation.bootstrap import Estimate


class WrittenReport(Config):
    """A report that is a file."""

    def write(self, path: Path) -> None:
        """Replace `path` in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n")
        partial.rename(path)


class Row(Config):
    """One model, over all its seeds."""

    model: str
    what: str
    seeds: tuple[int, ...] = ()
    settings: dict[str, float] = Field(default_factory=dict)
    """What sweeps vary: `p_mask`, `layers`, `events`."""
    parameters: int = 0
    training_seconds: tuple[float, ...] = ()
    flops: int = 0
    """Of one forward over one full history and slate, counted by PyTorch; 0 for second rankers."""
    metrics: dict[str, Estimate]
    totals: dict[str, float] = Field(default_factory=dict)
    """Statistics of all users together, which have no interval over users; means over seeds."""
    by_seed: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Each seed's mean of every metric."""
    losses: dict[str, tuple[tuple[int, float], ...]] = Field(default_factory=dict)
    """Training curves of the first seed: epoch and mean loss, by name of the loss."""


class Difference(Config):
    """A paired comparison: a - b over the same users."""

    a: str
    b: str
    metric: str
    estimate: Estimate


class Section(Config):
    """A further question about models of the main comparison, answered by rows of its own."""

    title: str
    what: str
    """What was asked and what the metrics are."""
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()


class Machine(Config):
    """Where the numbers were made."""

    processor: str
    cores: int
    threads: int
    torch: str

    @classmethod
    def here(cls) -> "Machine":
        """Return this machine."""
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return cls(
            processor=names[0] if names else platform.processor(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )


class EvaluationReport(WrittenReport):
    """One dataset."""

    dataset: str
    synthetic: bool
    """Simulated data: true of the simulator, and of nothing else."""
    protocol: str
    users: int
    items: int
    minutes: float | None
    """From the first training step to the last measurement; none where an earlier run had trained some."""
    machine: Machine
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    sections: tuple[Section, ...] = ()
