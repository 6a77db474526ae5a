"""How closely answers of the served profile are compared."""

import pytest

from tests.served.answers import BATCHED_IN_FLOAT32, EXACT, Likeness


@pytest.fixture(scope="session")
def batched(profile: str | None) -> Likeness:
    """Answers to one request, computed in different company."""
    return BATCHED_IN_FLOAT32 if profile == "gpu" else EXACT


@pytest.fixture(scope="session")
def to_offline(profile: str | None) -> Likeness:
    """Served answers and those of offline PyTorch."""
    return BATCHED_IN_FLOAT32 if profile == "gpu" else Likeness(rounding=1e-4)
