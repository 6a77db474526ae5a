"""How closely answers of the served profile are compared."""

import pytest

from tests.support.answers import BATCHED_IN_FLOAT32, PROMISED, Likeness


@pytest.fixture(scope="session")
def promised(profile: str | None) -> Likeness:
    """Answers to one request: in different company, from a prefix or not, served or of offline PyTorch."""
    return BATCHED_IN_FLOAT32 if profile == "gpu" else PROMISED
