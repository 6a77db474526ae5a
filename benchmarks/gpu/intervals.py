"""Times in which something ran, out of intervals that may overlap."""

from collections.abc import Iterable


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals, each from its first number to its second."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
