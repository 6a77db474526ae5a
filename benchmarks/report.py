"""What `unipinrec bench` found, as the JSON file that the page, plots and readers go by."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from experiments.report import Machine
from unipinrec.config import Config

STACKS = ("unified_cold", "separate_cold", "unified_warm", "separate_warm")
"""What is compared; `zipf` and the `cold` traffic beside it are further stacks, on a server of their own."""


class Spread(Config):
    """A median over rounds, with the least and the most."""

    median: float
    low: float
    high: float


class Row(Config):
    """One stack under one load. Rates and latencies are medians over rounds, counts are sums."""

    stack: str
    arrival: Literal["closed", "open"]
    """`closed`: so many requests in flight at all times. `open`: Poisson arrivals, whose latency counts from
    when they were due."""
    concurrency: int | None = None
    rate: float | None = None
    """Arrivals a second."""
    rounds: int
    requests: int
    """Answered and measured."""
    qps: float
    """Answered a second."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: int
    """Requests that failed, which no percentile contains."""
    errors_by_status: dict[str, int]
    kv_source: dict[str, int]
    """Answers by where ranking had the history's keys and values from."""
    hit_share: float
    """Share of `prefix` among them."""
    client_cpu_share: float
    """Of all cores, used by the load generator."""
    spreads: dict[str, Spread]


class Ratio(Config):
    """Unified over separate: below 1 is good for latencies, above 1 for rates."""

    value: float
    """Median of the ratios of each round."""
    low: float
    high: float
    rounds: tuple[float, ...]
    unified_concurrency: int
    separate_concurrency: int


class NodeTime(Config):
    """Milliseconds that one request spends at one node, on average."""

    node: str
    queue_ms: float
    compute_ms: float
    """Of the whole batch that the request was in."""


class Stages(Config):
    """Where the time of a request goes; means, so that they add up to `total_ms`."""

    stack: str
    concurrency: int
    nodes: tuple[NodeTime, ...]
    rest_ms: float
    """All else: hops between nodes, the ensemble, gRPC on both sides, and the client."""
    total_ms: float


class Overhead(Config):
    """One request at a time over gRPC, beside the same four nodes called in one process."""

    in_process_p50_ms: float
    in_process_rounds: tuple[float, ...]
    """Before and after the served rounds."""
    served_p50_ms: float
    overhead_ms: float


class Bound(Config):
    """What compute alone allows: a process for each core, each calling the nodes on and on."""

    processes: int
    batch: int
    """Users in one call, of the sizes tried the one that gave most."""
    in_process_qps: float
    in_process_rounds: tuple[float, ...]
    best_served_qps: float
    share_of_bound: float


class Correctness(Config):
    """Sampled answers beside offline PyTorch."""

    tolerance: float
    """Allowed difference of probabilities and scores."""
    checked: dict[str, int]
    """Answers compared, by stack."""
    largest_difference: float
    same_items: dict[str, float]
    """Mean share of the results that offline PyTorch with exact search returns too, by stack."""
    differences: tuple[str, ...] = ()
    """What was wrong; one is enough to fail the run."""


class BenchReport(Config):
    """One run of the benchmark."""

    started: str
    minutes: float
    quick: bool
    seed: int
    machine: Machine
    models: dict[str, str]
    """The ensemble behind each stack."""
    shape: dict[str, int | str]
    settings: dict[str, Any]
    """Of the server: threads, instances, precision, kind of index, slots."""
    load: dict[str, Any]
    """Of the load: rounds, seconds of each window, ramp, time limit, users."""
    rows: tuple[Row, ...]
    ratios: dict[str, Ratio]
    """`qps_cold`, `p50_cold`, `qps_warm`, `p50_warm`: rates at the concurrency that is best for each stack,
    medians of latency at concurrency 1."""
    ratios_by_concurrency: dict[str, tuple[Ratio, ...]] = Field(default_factory=dict)
    """The same at every concurrency."""
    overhead: dict[str, Overhead] = Field(default_factory=dict)
    stages: tuple[Stages, ...] = ()
    bound: dict[str, Bound] = Field(default_factory=dict)
    correctness: Correctness
    remarks: tuple[str, ...] = ()
    """What of the plan had to be changed on this machine."""

    def write(self, path: Path) -> None:
        """Replace `path` in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n")
        partial.rename(path)
