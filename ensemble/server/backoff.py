"""How long to wait before something that keeps failing is tried again."""


class Backoff:
    """Pauses before attempts: none before the first, for the sake of those who wait; then longer and longer.

    Requests that kill a process must not keep a machine busy with starts.
    """

    def __init__(self, *, first_s: float = 1.0, longest_s: float = 30.0, calm_s: float = 10.0) -> None:
        """`first_s` is the second pause, and each is twice the one before, up to `longest_s`. What served for
        `calm_s` before it failed starts from none again."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._calm_s = calm_s
        self._pause_s: float | None = None
        self._serves_since: float | None = None

    def serves(self, now: float) -> None:
        """Note that the last attempt succeeded at `now`, in seconds."""
        self._serves_since = now

    def pause_s(self, now: float) -> float:
        """Return the seconds to wait before the attempt that is wanted at `now`."""
        if self._serves_since is not None and now - self._serves_since >= self._calm_s:
            self._pause_s = None
        self._serves_since = None
        if self._pause_s is None:
            self._pause_s = 0.0
        else:
            self._pause_s = min(max(self._first_s, 2 * self._pause_s), self._longest_s)
        return self._pause_s
