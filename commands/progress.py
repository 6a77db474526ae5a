"""Progress bars of commands."""

from rich.console import Console
from rich.progress import Progress


def progress_bar(console: Console | None = None) -> Progress:
    """Return a bar that a terminal shows while it moves; where output goes elsewhere, there is none."""
    console = console or Console()
    return Progress(console=console, transient=True, disable=not console.is_terminal)
