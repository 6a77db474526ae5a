"""What `unipinrec bench unified` found, as the JSON file that the page, pictures and readers go by."""

from typing import Any, Literal

from experiments.report import Machine
from unipinrec.config import Config

STACKS = ("unified_cold", "separate_cold", "unified_warm", "separate_warm")
"""What is compared; `zipf` and the `cold` traffic beside it are further stacks, on a server of their own."""


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
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: int
    """Requests that failed, warm-up included, which no percentile contains."""
    errors_by_status: dict[str, int]
    kv_source: dict[str, int]
    """Answers by where ranking had the history's keys and values from."""
    hit_share: float
    """Share of `prefix` among them."""
    client_cpu_share: float
    """Share of all cores that the load generator used."""
    spreads: dict[str, tuple[float, float]]
    """Least and most over rounds, of what there is a median of."""


class Ratio(Config):
    """Unified over separate, the median of the ratios of each round: below 1 is good for latencies."""

    value: float
    low: float
    high: float
    rounds: tuple[float, ...]
    unified_concurrency: int
    separate_concurrency: int


class NodeTime(Config):
    """Milliseconds that one request spends at one node, on average; computing is that of its whole batch."""

    node: str
    queue_ms: float
    compute_ms: float


class Stages(Config):
    """Where the time of a request goes; means, so that they add up to `total_ms`."""

    stack: str
    concurrency: int
    nodes: tuple[NodeTime, ...]
    rest_ms: float
    """All else: hops between nodes, the ensemble, gRPC on both sides, and the client."""
    total_ms: float


class InProcess(Config):
    """The nodes called without a server, before and after the served rounds, beside what was served."""

    p50_ms: tuple[float, ...]
    """One request at a time in one process."""
    overhead_ms: float
    """What a request alone takes longer when it is served."""
    processes: int
    batch: int
    """Users in one call, of the sizes tried the one that gave most."""
    qps: tuple[float, ...]
    """Users a second of a process for each core, each calling on and on: what compute alone allows."""
    share_of_bound: float
    """Share of that which is served at best."""


class Correctness(Config):
    """Sampled answers beside offline PyTorch."""

    tolerance: float
    """Difference of a probability or score beyond which an answer is wrong."""
    checked: dict[str, int]
    """Answers compared, by stack."""
    largest_difference: float
    same_items: dict[str, float]
    """Mean share of the results that offline PyTorch with exact search returns too, by stack."""
    differences: tuple[str, ...]


class BenchReport(Config):
    """One run of the benchmark."""

    started: str
    minutes: float
    quick: bool
    seed: int
    machine: Machine
    models: dict[str, str]
    """The ensemble behind each stack."""
    shape: dict[str, Any]
    settings: dict[str, Any]
    """What the server ran with."""
    load: dict[str, Any]
    rows: tuple[Row, ...]
    ratios: dict[str, Ratio]
    """`qps_cold`, `p50_cold`, `qps_warm`, `p50_warm`: rates at the concurrency that is best for each stack,
    medians of latency at concurrency 1."""
    ratios_by_concurrency: dict[str, tuple[Ratio, ...]]
    in_process: dict[str, InProcess]
    stages: tuple[Stages, ...]
    correctness: Correctness
    remarks: tuple[str, ...]
    """What of the plan had to be changed on this machine."""
