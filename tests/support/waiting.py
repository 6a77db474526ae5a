"""Waits for what another process or thread brings about."""

import time
from collections.abc import Callable


def holds_within(seconds: float, condition: Callable[[], object], every_s: float = 0.05) -> bool:
    """Return whether `condition` came to hold in time; it is looked at every so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
