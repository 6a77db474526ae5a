"""What a run had to keep, and whether it did."""

from dataclasses import dataclass

from loadtest.measures import Measured


@dataclass(frozen=True, slots=True)
class Check:
    """One limit."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        """Whether the value is at most the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}{self.unit}; allowed: at most {self.limit:.4g}{self.unit}"


def load_checks(measured: Measured, max_error_rate: float | None, max_p99_ms: float | None) -> list[Check]:
    """Limits of a load test; None sets none."""
    checks = []
    if max_error_rate is not None:
        checks.append(Check("error rate", measured.error_rate, max_error_rate))
    if max_p99_ms is not None:
        checks.append(Check("p99", measured.p99_ms, max_p99_ms, " ms"))
    return checks


def violations(checks: list[Check]) -> list[str]:
    """A line for each limit that was not kept."""
    return [str(check) for check in checks if not check.kept]
