"""What a server used between two moments: processors of its processes, and time of its nodes."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import psutil

COUNT = "request_success"
QUEUE = "queue_duration_us"
COMPUTE = ("compute_input_duration_us", "compute_infer_duration_us")
"""Time of output is left out: it also covers what follows the answer, when the next node is at work."""

METRIC = re.compile(
    rf'^nv_inference_({"|".join((COUNT, QUEUE, *COMPUTE))}){{[^}}]*model="([^"]+)"[^}}]*}} (\S+)$',
    re.MULTILINE,
)
SETTLING_S = 0.05
MOST_READS = 40

Counters = Mapping[str, Mapping[str, float]]
"""Each metric's total so far, by model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """Processor seconds at one moment."""

    at_s: float
    cpu_s: Mapping[str, float]
    """Used so far by each named process."""
    idle_s: float
    """Seconds that all cores together have been idle."""


@dataclass(frozen=True, slots=True)
class NodeTime:
    """What a request spends at one model, on average."""

    queue_ms: float
    compute_ms: float
    """Computing of the whole batch that the request was in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Processors between two moments."""

    cores: Mapping[str, float]
    """Cores that each process used: 1 is all of one."""
    machine_share: float
    """Share of all cores that was used by whatever ran on them."""

    def saturated(self, generator_cores: float, nodes: Mapping[str, NodeTime]) -> str:
        """Return what to blame for a rate that cannot be exceeded, as a sentence."""
        busiest = max(self.cores, key=lambda name: self.cores[name], default=None)
        waited = max(nodes, key=lambda name: nodes[name].queue_ms, default=None)
        parts = [f"all cores together {self.machine_share:.0%} busy"]
        if busiest is not None:
            parts.append(f"busiest of the server: {busiest} with {self.cores[busiest]:.2f} cores")
        parts.append(f"load generator {generator_cores:.2f} cores")
        if waited is not None:
            parts.append(f"longest queue: {waited} with {nodes[waited].queue_ms:.1f} ms a request")
        return f"{self._verdict(busiest, generator_cores)}: {', '.join(parts)}"

    def _verdict(self, busiest: str | None, generator_cores: float) -> str:
        if self.machine_share >= 0.9:
            return "the machine's processors are saturated"
        if generator_cores >= 0.9:
            return "the load generator is saturated"
        if busiest is not None and self.cores[busiest] >= 0.85:
            return f"one process of {busiest} is saturated"
        return "no processor is saturated"


class ServerWatch:
    """Watches processes of this machine by their ids, and a metrics endpoint anywhere."""

    def __init__(
        self,
        processes: Mapping[str, Sequence[int]],
        metrics_url: str | None = None,
        memory: Sequence[str] = (),
    ) -> None:
        """`processes`: ids by name. `memory`: patterns of the server's files in shared memory."""
        self._processes = {
            f"{name}{f' {number}' if len(pids) > 1 else ''}": psutil.Process(pid)
            for name, pids in processes.items()
            for number, pid in enumerate(pids, start=1)
        }
        self._metrics_url = metrics_url
        self._memory = tuple(memory)

    def processors(self) -> Processors:
        """Return processor seconds as they are; a process that has ended is left out."""
        cpu_s = {}
        for name, process in self._processes.items():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s[name] = times.user + times.system
        idle = psutil.cpu_times()
        return Processors(at_s=time.monotonic(), cpu_s=cpu_s, idle_s=idle.idle + getattr(idle, "iowait", 0.0))

    def counters(self) -> Counters:
        """Return Triton's counters of requests that succeeded; none without a metrics endpoint."""
        counters: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, model, value in METRIC.findall(self._scrape()):
            counters[name][model] += float(value)
        return counters

    def settled_counters(self) -> Counters:
        """Return the counters once they stay the same: a request is counted a moment after its answer."""
        found = self.counters()
        for _ in range(MOST_READS if self._metrics_url else 0):
            time.sleep(SETTLING_S)
            earlier, found = found, self.counters()
            if found == earlier:
                break
        return found

    def rss_bytes(self) -> int:
        """Return the resident memory of all processes together; what they share counts once for each."""
        total = 0
        for process in self._processes.values():
            with suppress(psutil.NoSuchProcess):
                total += int(process.memory_info().rss)
        return total

    def shared_bytes(self) -> int:
        """Return the bytes allocated to the server's files in shared memory."""
        found = [path for pattern in self._memory for path in Path("/").glob(pattern.lstrip("/"))]
        found += [path for folder in found if folder.is_dir() for path in folder.rglob("*")]
        total = 0
        for path in found:
            with suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512 if path.is_file() else 0
        return total

    def _scrape(self) -> str:
        if self._metrics_url is None:
            return ""
        address = urlsplit(self._metrics_url)
        connection = HTTPConnection(address.netloc, timeout=5)
        try:
            connection.request("GET", address.path)
            return connection.getresponse().read().decode()
        except (OSError, HTTPException):
            return ""
        finally:
            connection.close()


def usage(before: Processors, after: Processors) -> Usage:
    """Return what was used between two moments."""
    seconds = after.at_s - before.at_s
    return Usage(
        cores={
            name: (used - before.cpu_s[name]) / seconds
            for name, used in after.cpu_s.items()
            if name in before.cpu_s
        },
        machine_share=min(
            max(1 - (after.idle_s - before.idle_s) / seconds / (psutil.cpu_count() or 1), 0.0), 1.0
        ),
    )


def node_times(before: Counters, after: Counters) -> dict[str, NodeTime]:
    """Return what a request spent at each model that was asked between two readings."""

    def ms(name: str, model: str) -> float:
        spent_us = after[name][model] - before.get(name, {}).get(model, 0.0)
        return spent_us / served[model] / 1e3

    counts = after.get(COUNT, {})
    served = {model: count - before.get(COUNT, {}).get(model, 0.0) for model, count in counts.items()}
    return {
        model: NodeTime(ms(QUEUE, model), sum(ms(name, model) for name in COMPUTE))
        for model, count in served.items()
        if count > 0
    }
