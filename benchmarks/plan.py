"""What one run of the benchmark does, in full and quick."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from benchmarks.compare import LoadPlan
from benchmarks.report import STACKS
from ensemble.settings import ServingSettings


class Kind(StrEnum):
    """Kinds of traffic."""

    COLD = "cold"
    WARM = "warm"
    ZIPF = "zipf"


SLOTS_PER_USER = 2
"""Slots of the compared server for each returning user, where UNIPINREC_POOL_SLOTS does not say otherwise:
room for all, beside what other stacks have left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """Sizes and durations."""

    out: Path
    items: int
    load: LoadPlan
    zipf_users: int
    zipf_concurrencies: tuple[int, ...]
    zipf_seconds: float
    """Length of a measured window of the Zipf run."""
    in_process_seconds: float
    """For each stack, and each batch tried."""
    in_process_after: bool
    """Whether the nodes are measured without a server once more at the end."""
    most_checked: int
    """Answers of each stack that are compared with offline PyTorch."""
    tolerance: float
    """Allowed difference to offline PyTorch."""
    baseline: str
    """The ensemble that plays the separate stack."""
    quick: bool
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
    def zipf_load(self) -> LoadPlan:
        """The load of the Zipf run."""
        return replace(self.load, concurrencies=self.zipf_concurrencies, seconds=self.zipf_seconds)

    def settings(self, bundle: Path) -> ServingSettings:
        """Those of the environment, with a pool that has room for all returning users.

        Raises:
            ValidationError: a variable of the environment is out of range.
        """
        settings = ServingSettings(bundle=bundle)
        if "pool_slots" in settings.model_fields_set:
            return settings
        users = max(self.load.warm_users, *self.load.concurrencies)
        return settings.model_copy(update={"pool_slots": SLOTS_PER_USER * users})

    @property
    def steps(self) -> int:
        """How often a run says what it does next."""
        count = len(self.stacks)
        closed = count * (1 + self.load.rounds * len(self.load.concurrencies))
        compared = closed + count * len(self.load.rate_shares) + 2 + self.in_process_after if count else 0
        return 2 + compared + (2 + 4 * len(self.zipf_concurrencies) if self.has_zipf else 0)


FULL_LOAD = LoadPlan(
    concurrencies=(1, 4, 16, 20, 32, 64),
    rounds=3,
    seconds=4.0,
    least_replies=50,
    ramp_s=1.0,
    open_seconds=8.0,
    rate_shares=(0.5, 0.7, 0.9),
    timeout_s=30.0,
    warm_users=24,
    seed=1,
)
FULL = BenchPlan(
    out=Path("build/bench"),
    items=100_000,
    load=FULL_LOAD,
    zipf_users=20_000,
    zipf_concurrencies=(4, 16),
    zipf_seconds=8.0,
    in_process_seconds=2.5,
    in_process_after=True,
    most_checked=60,
    tolerance=1e-4,
    baseline="recommend_separate",
    quick=False,
)
QUICK = replace(
    FULL,
    items=20_000,
    load=replace(
        FULL_LOAD,
        concurrencies=(1, 4, 16),
        rounds=1,
        seconds=2.0,
        least_replies=10,
        ramp_s=0.5,
        open_seconds=3.0,
        rate_shares=(0.6,),
    ),
    zipf_users=400,
    zipf_concurrencies=(4,),
    zipf_seconds=3.0,
    in_process_seconds=1.5,
    in_process_after=False,
    most_checked=20,
    quick=True,
)
"""Everything once and small: shows that it works, and roughly what comes out."""
