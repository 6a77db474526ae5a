"""What a run shows and writes of its losses."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from rich import progress
from torch.utils.tensorboard import SummaryWriter


class TrainingReport:
    """A progress bar, or a line for each epoch where there is no terminal, and curves for TensorBoard."""

    def __init__(self, folder: Path, steps: int, done: int) -> None:
        self._stack = ExitStack()
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._bar = progress.Progress(
            "{task.description}",
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            "{task.fields[losses]}",
        )
        self._task = self._bar.add_task("training", total=steps, completed=done, losses="")

    def __enter__(self) -> Self:
        self._stack.enter_context(self._writer)
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def step(self, epoch: int, mean: Mapping[str, float]) -> None:
        """Count a step, and show the losses of its epoch so far."""
        self._bar.update(self._task, advance=1, losses=f"epoch {epoch}: {_text(mean)}")

    def end_epoch(self, epoch: int, epochs: int, mean: Mapping[str, float]) -> None:
        """Write the losses of a whole epoch."""
        if not self._bar.console.is_terminal:
            self._bar.console.print(f"{_text(mean)} ({epoch} of {epochs} epochs)", soft_wrap=True)
        for name, value in mean.items():
            self._writer.add_scalar(f"loss/{name}", value, epoch)


def _text(mean: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
