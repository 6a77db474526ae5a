"""What `unipinrec bench-gpu` found, as the JSON file that readers go by. Parts that were not run are None."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from benchmarks.report import Correctness, Ratio, Row, Stages
from experiments.report import Machine
from unipinrec.config import Config


class Card(Config):
    """The GPU, as `nvidia-smi` and PyTorch describe it; None is what neither told."""

    name: str
    driver: str | None = None
    memory_mib: int | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    """At the start of the run, when the card may be idle."""
    most_sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    torch: str
    cuda: str | None
    triton: str | None
    """The compiler of GPU kernels, not the server."""


class Rates(Config):
    """What the card itself reaches on random numbers; None where nothing measured it."""

    bf16_flops: float | None
    """Operations a second of the largest square product, multiplications and additions counted."""
    float8_flops: float | None
    copy_bytes: float | None
    """Bytes a second, read and written, of a copy inside the device."""


class Timing(Config):
    """Milliseconds of one launch."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    repetitions: int


class Parity(Config):
    """Differences to the same forward in float32, over all sets."""

    largest: float
    """Of a probability."""
    mean: float
    largest_logit: float
    mean_logit: float
    same_top: float
    """Share of each request's ten best items that are the same."""


class Forward(Config):
    """One line of the table."""

    name: str
    title: str
    precision: str
    mode: str
    """How it was compiled and launched."""
    paper_speed_up: float | None = None
    """UniPinRec Table 2, on an NVIDIA L40S."""
    timing: Timing | None = None
    speed_up: float | None = None
    """Over the first line."""
    parity: Parity | None = None
    linear_flops: int = 0
    attention_flops: int = 0
    bytes: int = 0
    matrix_share: float | None = None
    """FLOPs a second over the card's own rate, of float8 for lines in float8."""
    copy_share: float | None = None
    """Bytes a second over the card's own copy."""
    weight_bytes: int = 0
    peak_bytes: int | None = None
    """The most that PyTorch held at once: this line's, other models and the slots of all sets."""
    working_bytes: int | None = None
    """The most that was allocated at once beyond what lay there before: graphs, activations and masks."""
    failure: str | None = None
    """Why it was not measured."""


class ForwardTable(Config):
    """Ranking forwards of one batch."""

    shape: dict[str, int | str]
    rates: Rates
    forwards: tuple[Forward, ...]
    parts: tuple[Forward, ...]
    """Where else a request's time goes: encoding, generation, and other item tables."""
    remarks: tuple[str, ...] = ()


class Kernel(Config):
    """One kernel or copy of a profile."""

    name: str
    share: float
    """Of the time in which anything ran on the device."""
    count: float
    """In one batch."""


class Idle(Config):
    """One kind of batch through encode, generate and score in one process, with all that the host does."""

    kind: str
    batches: int
    batch: int
    wall_ms: float
    """Of a batch, without a profiler."""
    profiled_wall_ms: float
    """With it."""
    busy_ms: float
    """In which a kernel or copy ran, by the profile."""
    outside_share: float
    """1 - busy / wall."""
    profiled_outside_share: float
    kernels: tuple[Kernel, ...]


class Passed(Config):
    """A tensor that goes from one node to the next."""

    node: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    bytes: int
    carries: str
    """What it holds, or `unknown`."""


class Passing(Config):
    """Everything that one request sends through the server."""

    tensors: tuple[Passed, ...]
    bytes: int
    keys_and_values_bytes: int
    """Of tensors that hold keys or values, or that nobody knows."""
    cached_bytes: int
    """Keys and values of the same request, which stay in the slot."""


class Served(Config):
    """Unified beside separate, through one server."""

    items: int
    settings: dict[str, Any]
    server: dict[str, Any]
    load: dict[str, Any]
    rows: tuple[Row, ...]
    stages: tuple[Stages, ...]
    ratios: dict[str, Ratio]
    ratios_by_concurrency: dict[str, tuple[Ratio, ...]]
    passing: Passing


class Arrivals(Config):
    """Requests at a constant rate, by Poisson arrivals."""

    steps: int
    rate: float
    settings: dict[str, Any]
    server: dict[str, Any]
    rows: tuple[Row, ...]


class Answers(Config):
    """Random requests, each compared with float32 PyTorch on the same GPU."""

    requests: int
    concurrency: int
    failed: dict[str, int]
    """Requests without an answer, by status."""
    kv_source: dict[str, int]
    mean_difference: float
    """Of each answer's largest difference."""
    correctness: Correctness
    settings: dict[str, Any]


class Bar(Config):
    """One thing that was to be shown."""

    name: str
    wanted: str
    measured: float | None
    """None: not measured."""
    met: bool | None


class GpuReport(Config):
    """All parts that were run on one card."""

    started: str
    """Of the latest part."""
    minutes: dict[str, float] = Field(default_factory=dict)
    """Of each part."""
    machine: Machine
    card: Card
    shape: str
    table: ForwardTable | None = None
    idle: tuple[Idle, ...] | None = None
    served: Served | None = None
    arrivals: Arrivals | None = None
    answers: Answers | None = None
    bars: tuple[Bar, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The report that an earlier run left, or None where there is none of this format."""
        try:
            return cls.model_validate_json(path.read_text())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Replace `path` in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n")
        partial.rename(path)
