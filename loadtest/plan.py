"""What a load generator is told, as a file that its processes and hosts share."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from loadtest.histories import DrawnUsers, read_histories
from loadtest.schedule import Arrivals, Stage
from loadtest.traffic import AnyTraffic, HistoryLimit, StoredTraffic, Traffic, TrafficMix


class Protocol(StrEnum):
    """How requests travel."""

    GRPC = "grpc"
    HTTP = "http"
    BARE = "bare"
    """HTTP of which only status and length are read, for rates at which a client of Python is the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One run of load."""

    url: str
    """`host:port` of the server."""
    protocol: Protocol = Protocol.GRPC
    model: str = "recommend"
    """Triton model to ask."""
    arrivals: Arrivals = Arrivals.POISSON
    stages: tuple[Stage, ...] = ()
    """Warm-up included."""
    warm_up_s: float = 0.0
    """Seconds at the start whose requests are not counted."""
    workers: int = 1
    """Processes that generate load. One Python process can send a few hundred requests a second."""
    traffic: str = ""
    """Path of the traffic file, on every host."""
    drawn: DrawnUsers | None = None
    """Users in place of those of a traffic file."""
    stored: tuple[str, ...] = ()
    """Ids of users whose histories the server has, who come in turns in place of all others."""
    mix: TrafficMix = field(default_factory=TrafficMix)
    limit: HistoryLimit = field(default_factory=HistoryLimit)
    seed: int = 0
    num_results: int = 20
    timeout_s: float = 10.0
    """Seconds until a request counts as failed."""
    deadline_ms: float | None = None
    """What requests tell the server that their callers wait; nothing, where it is None."""
    outcomes: str = "outcomes.csv"
    """Path of the file for every single outcome."""

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls.of_fields(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> Self:
        """Return the plan of its fields as JSON has them."""
        return cls(
            **fields
            | {
                "protocol": Protocol(fields["protocol"]),
                "arrivals": Arrivals(fields["arrivals"]),
                "stages": tuple(Stage(**stage) for stage in fields["stages"]),
                "drawn": DrawnUsers(**fields["drawn"]) if fields["drawn"] else None,
                "stored": tuple(fields["stored"]),
                "mix": TrafficMix(**fields["mix"]),
                "limit": HistoryLimit(**fields["limit"]),
            }
        )

    def open_traffic(self, stream: int) -> AnyTraffic:
        """Return the visits of one of the `workers`."""
        if self.stored:
            return StoredTraffic(self.stored[stream :: self.workers])
        users = self.drawn or read_histories(Path(self.traffic))
        return Traffic(users, self.mix, seed=self.seed, limit=self.limit, stream=stream, streams=self.workers)
