"""How often, and how soon, a server that was killed is started again."""

from collections.abc import Sequence

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)
WINDOW_S = 300.0


class Restarts:
    """Grants a bounded number of restarts within a window of time.

    The first comes at once, for the sake of those who wait. Later ones wait longer, and one too many is not
    granted: requests that kill the server must not keep a machine busy with starts.
    """

    def __init__(self, pauses_s: Sequence[float] = PAUSES_S) -> None:
        """`pauses_s` are the seconds before each restart within `WINDOW_S`, as many as are granted."""
        self._pauses_s = pauses_s
        self._granted: list[float] = []

    def __str__(self) -> str:
        return f"{len(self._pauses_s)} in {WINDOW_S:g} s"

    def grant(self, now: float) -> float | None:
        """Return the seconds to pause before a restart wanted at `now` (s), None if it is one too many."""
        self._granted = [then for then in self._granted if now - then < WINDOW_S]
        if len(self._granted) == len(self._pauses_s):
            return None
        self._granted.append(now)
        return self._pauses_s[len(self._granted) - 1]
