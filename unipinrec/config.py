"""The base of all configurations, and what every training run is told."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Config(BaseModel):
    """Base of every configuration: immutable, unknown fields refused, ranges checked by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


HIDDEN = "hidden"
"""In the context of a fault: nobody may see what was given."""


def allowed_by(fault: ErrorDetails) -> str:
    """Return what pydantic says of a fault, as our own messages say it."""
    return fault["msg"].removeprefix("Value error, ").replace("Input should be ", "allowed: ", 1)


def first_fault(error: ValidationError) -> str:
    """Return the first thing that fields were refused for, in a line: a field, its value, what is allowed."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    allowed = allowed_by(first)
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "value_error" and not where:
        return allowed
    told = "not shown" if is_hidden(first) else f"{first['input']!r:.100}"
    return f"{where or 'it'} is {told}; {allowed}"


def is_hidden(fault: ErrorDetails) -> bool:
    """Return whether what was given is a secret, which no message may have."""
    return bool(fault.get("ctx", {}).get(HIDDEN))


class TrainingConfig(Config):
    """What the trainer needs, whatever the model; a model's own losses are set in a subclass."""

    epochs: Count
    """Passes over the users; each pass draws one example per user."""
    batch_size: Count = 64
    """Users in one step, those of all processes together."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the schedule: linear warm-up, then cosine decay to zero."""
    warmup_fraction: Probability = 0.1
    """Share of all steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a step's gradient."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds initialisation, example order, masking and negatives."""
    checkpoint_every: Count = 5
    """Epochs between checkpoints; a run that stops is resumed from the last one."""
