"""What one run of the benchmark does, in full and quick."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from benchmarks.unified.report import STACKS
from ensemble.server.selection import BASELINE
from ensemble.settings import ServingSettings

SLOTS_PER_USER = 2
"""Slots of the compared server for each returning user, where UNIPINREC_POOL_SLOTS does not say otherwise:
room for all, beside what other stacks have left."""


class Kind(StrEnum):
    """Kinds of traffic."""

    COLD = "cold"
    """Every request is of a user never seen before, whose history fills the window."""
    WARM = "warm"
    """A few users return, each with a few more events."""
    ZIPF = "zipf"
    """Many users return, with slots for a tenth of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLoad:
    """How stacks are loaded."""

    concurrencies: tuple[int, ...] = (1, 4, 16, 20, 32, 64)
    rounds: int = 3
    seconds: float = 4.0
    """Length of a measured window, at least."""
    least_replies: int = 50
    """Replies in a window, at least, for a median that says something."""
    ramp_s: float = 1.0
    """Seconds from the first replies under load to the window."""
    open_seconds: float = 8.0
    """Seconds for which requests arrive at each rate."""
    rate_shares: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Rates of open-loop arrivals, as shares of the most that the unified stack answered."""
    timeout_s: float = 30.0
    """A request that takes longer has failed."""
    warm_users: int = 24
    """Returning users; as many as requests are in flight, where that is more."""
    seed: int = 1

    def settings(self, bundle: Path) -> ServingSettings:
        """Return the environment's settings for a bundle, with a pool that has room for all returning users.

        Raises:
            ValidationError: a variable of the environment is out of range.
        """
        settings = ServingSettings(bundle=bundle)
        if "pool_slots" in settings.model_fields_set:
            return settings
        users = max(self.warm_users, *self.concurrencies)
        return settings.model_copy(update={"pool_slots": SLOTS_PER_USER * users})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """Sizes and durations."""

    out: Path = Path("build/bench")
    items: int = 100_000
    load: StackLoad = StackLoad()
    zipf_users: int = 20_000
    zipf_concurrencies: tuple[int, ...] = (4, 16)
    zipf_seconds: float = 8.0
    """Length of a measured window of the Zipf run."""
    in_process_seconds: float = 2.5
    """For each stack without a server, and each batch tried; before and, unless quick, after the server."""
    most_checked: int = 60
    """Answers of each stack that are compared with offline PyTorch."""
    tolerance: float = 1e-4
    """Difference to offline PyTorch beyond which an answer is wrong."""
    baseline: str = BASELINE
    """The ensemble that plays the separate stack."""
    quick: bool = False
    only: Kind | None = None
    """One kind of traffic alone."""

    @property
    def stacks(self) -> tuple[str, ...]:
        """The compared stacks, without Zipf's."""
        return tuple(stack for stack in STACKS if self.only is None or stack.endswith(self.only))

    @property
    def has_zipf(self) -> bool:
        """Whether Zipf traffic is run."""
        return self.only in (None, Kind.ZIPF)

    @property
    def zipf_load(self) -> StackLoad:
        """The load of the Zipf run."""
        return replace(self.load, concurrencies=self.zipf_concurrencies, seconds=self.zipf_seconds)


FULL = BenchPlan()
QUICK_LOAD = StackLoad(
    concurrencies=(1, 4, 16), rounds=1, seconds=2.0, least_replies=10, open_seconds=3.0, rate_shares=(0.6,)
)
QUICK = BenchPlan(
    items=20_000,
    load=QUICK_LOAD,
    zipf_users=400,
    zipf_concurrencies=(4,),
    zipf_seconds=3.0,
    in_process_seconds=1.5,
    most_checked=20,
    quick=True,
)
"""Everything once and small: shows that it works, and roughly what comes out."""
