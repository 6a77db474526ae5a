"""The models that there are, by name. A new one is a line here."""

from importlib import import_module
from typing import Any

from unipinrec.models.spec import ModelSpec

MODELS = {
    "unified": "unipinrec.models.unified.spec",
    "interleaved": "unipinrec.models.baselines.interleaved",
    "sasrec": "unipinrec.models.baselines.sasrec",
    "policy": "unipinrec.models.policy.spec",
    "transact": "unipinrec.models.transact.spec",
    "transact-v2": "unipinrec.models.transact.spec_v2",
}
"""Modules whose `SPEC` is the model's; one is imported when it is asked for."""
WITH_TRAINING_COMMAND = ("policy",)
"""Models that learn from more than a dataset: `unipinrec <name> train` trains them."""


def find_model(name: str) -> ModelSpec[Any, Any, Any]:
    """Return the spec of a model. Raises `ValueError` if no model has that name."""
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; allowed: {', '.join(MODELS)}")
    spec: ModelSpec[Any, Any, Any] = import_module(MODELS[name]).SPEC
    return spec
