"""What a server used between two moments: processors of its processes, and queues of its nodes."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import psutil

QUEUE, COUNT = "nv_inference_queue_duration_us", "nv_inference_request_success"
METRIC = re.compile(rf'^({QUEUE}|{COUNT}){{[^}}]*model="([^"]+)"[^}}]*}} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters at one moment."""

    at_s: float
    cpu_s: Mapping[str, float]
    """Processor seconds so far of each named process."""
    idle_s: float
    """Seconds that all cores together have been idle."""
    queue_us: Mapping[str, float]
    """Microseconds that requests have waited for each model."""
    requests: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Between two moments."""

    cores: Mapping[str, float]
    """Cores that each process used: 1 is all of one."""
    machine_share: float
    """Of all cores, by whatever ran on them."""
    queue_ms: Mapping[str, float]
    """Mean wait of a request for each model; empty without metrics."""

    def saturated(self, generator_cores: float) -> str:
        """What to blame for a rate that cannot be exceeded, as a sentence."""
        busiest = max(self.cores, key=lambda name: self.cores[name], default=None)
        waited = max(self.queue_ms, key=lambda name: self.queue_ms[name], default=None)
        parts = [f"all cores together {self.machine_share:.0%} busy"]
        if busiest is not None:
            parts.append(f"busiest of the server: {busiest} with {self.cores[busiest]:.2f} cores")
        parts.append(f"load generator {generator_cores:.2f} cores")
        if waited is not None:
            parts.append(f"longest queue: {waited} with {self.queue_ms[waited]:.1f} ms a request")
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

    def snapshot(self) -> Snapshot:
        """The counters as they are; a process that has ended is left out."""
        cpu_s = {}
        for name, process in self._processes.items():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            cpu_s[name] = times.user + times.system
        counters = self._metrics()
        idle = psutil.cpu_times()
        return Snapshot(
            at_s=time.monotonic(),
            cpu_s=cpu_s,
            idle_s=idle.idle + getattr(idle, "iowait", 0.0),
            queue_us=counters[QUEUE],
            requests=counters[COUNT],
        )

    def rss_bytes(self) -> int:
        """Resident memory of all processes together; what they share counts once for each."""
        total = 0
        for process in self._processes.values():
            try:
                total += int(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return total

    def shared_bytes(self) -> int:
        """Bytes allocated to the server's files in shared memory."""
        found = [path for pattern in self._memory for path in Path("/").glob(pattern.lstrip("/"))]
        files = [path for path in found if path.is_file()]
        files += [path for folder in found if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        return sum(_allocated(path) for path in files)

    def _metrics(self) -> dict[str, dict[str, float]]:
        counters: dict[str, dict[str, float]] = {QUEUE: defaultdict(float), COUNT: defaultdict(float)}
        for name, model, value in METRIC.findall(self._scrape()):
            counters[name][model] += float(value)
        return counters

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


def usage(before: Snapshot, after: Snapshot) -> Usage:
    """What was used between two snapshots."""
    seconds = after.at_s - before.at_s
    cores = os.cpu_count() or 1
    served = {model: count - before.requests.get(model, 0.0) for model, count in after.requests.items()}
    return Usage(
        cores={
            name: (used - before.cpu_s[name]) / seconds
            for name, used in after.cpu_s.items()
            if name in before.cpu_s
        },
        machine_share=min(max(1 - (after.idle_s - before.idle_s) / seconds / cores, 0.0), 1.0),
        queue_ms={
            model: (waited - before.queue_us.get(model, 0.0)) / served[model] / 1e3
            for model, waited in after.queue_us.items()
            if served.get(model, 0.0) > 0
        },
    )


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
