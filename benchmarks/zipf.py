"""Many users of very different popularity, and a cache for the tenth part of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigProto

from benchmarks.compare import Comparison
from benchmarks.target import UNIFIED
from benchmarks.workload import ColdTraffic, EventSpace, ZipfTraffic
from ensemble.graph import MODEL_REPOSITORY
from ensemble.kv.shared_memory import bytes_of
from ensemble.kv.slot_storage import SlotLayout
from ensemble.settings import ServingSettings
from unipinrec.models.config import ModelConfig

ZIPF, COLD = "unified_zipf", "unified_cold_beside_zipf"
MODELS = {ZIPF: UNIFIED, COLD: UNIFIED}

USERS_PER_SLOT = 10
USABLE = 0.7
"""Share of the free memory that the pool may take."""

LEAST_SLOTS = 16


class TooLittleMemoryError(RuntimeError):
    """Not even a small pool fits."""


@dataclass(frozen=True, slots=True)
class ZipfSize:
    """How many users there are, and how many have a slot."""

    users: int
    slots: int
    """Of all pools together."""


def fitting_size(
    users: int, model: ModelConfig, settings: ServingSettings, tell: Callable[[str], None]
) -> ZipfSize:
    """So many users with a slot for every tenth; fewer, which `tell` is told, where memory is short.

    Raises:
        TooLittleMemoryError: fewer than `LEAST_SLOTS` slots fit.
    """
    slot_bytes = bytes_of(SlotLayout.of_model(model, 1, settings.kv_precision))
    room = int(USABLE * _free_bytes(settings.runtime_dir.parent))
    slots = max(users // USERS_PER_SLOT, LEAST_SLOTS)
    fitting = room // slot_bytes
    if fitting < LEAST_SLOTS:
        raise TooLittleMemoryError(
            f"{LEAST_SLOTS} slots need {LEAST_SLOTS * slot_bytes >> 20} MiB; {room >> 20} MiB may be used"
        )
    if fitting < slots:
        tell(
            f"zipf: {slots} slots need {slots * slot_bytes / 1e9:.1f} GB and {room / 1e9:.1f} GB of shared "
            f"memory may be used: {fitting * USERS_PER_SLOT} users and {fitting} slots instead"
        )
        slots = fitting
    return ZipfSize(slots * USERS_PER_SLOT, slots)


def pools() -> int:
    """Retrieval instances of the model repository; each has a pool of its own."""
    text = (MODEL_REPOSITORY / "retrieval" / "config.pbtxt").read_text()
    config = text_format.Parse(text, ModelConfigProto())
    return sum(group.count for group in config.instance_group)


def run_zipf(comparison: Comparison, space: EventSpace, size: ZipfSize, seed: int) -> None:
    """Cold traffic, the fill, Zipf traffic twice, and cold traffic again, at every concurrency of the plan.

    Cold traffic stays outside: its users would push returning ones out of the pool.
    """
    plan = comparison.plan
    for concurrency in plan.concurrencies:
        comparison.run_once(COLD, ColdTraffic(space, seed + concurrency), concurrency)
    traffic = ZipfTraffic(space, seed, size.users, size.slots)
    comparison.fill(ZIPF, traffic)
    for order in (plan.concurrencies, tuple(reversed(plan.concurrencies))):
        for concurrency in order:
            comparison.run_once(ZIPF, traffic, concurrency)
    for concurrency in plan.concurrencies:
        comparison.run_once(COLD, ColdTraffic(space, seed + 1_000 + concurrency), concurrency)


def _free_bytes(folder: Path) -> int:
    """Free room in a memory-backed file system, or free memory where that is less."""
    room = os.statvfs(folder)
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return min(room.f_bavail * room.f_frsize, available)
