"""What the comparison with rivals found, as a JSON file."""

from experiments.report import EvaluationReport
from experiments.rivals.budget import Budget
from experiments.rivals.tables import Trained
from unipinrec.config import Config


class Choice(Config):
    """What tuning found for one rival and action."""

    rival: str
    action: str
    trained: Trained


class RivalsReport(EvaluationReport):
    """Every rival is a row: means over its seeds, each action's out of a model of its own."""

    library: str
    conditions: tuple[str, ...]
    """What was fixed for all rivals, and what differs from the library's own models."""
    validation_begin: int
    """Unix seconds."""
    test_begin: int
    budget: Budget
    choices: tuple[Choice, ...]
