"""Many users of very different popularity, and slots for a tenth of them."""

import psutil

from benchmarks.unified.plan import Kind
from benchmarks.unified.stacks import UNIFIED, Comparison
from ensemble.graph import MODEL_REPOSITORY, read_config
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


def fitting_slots(users: int, model: ModelConfig, settings: ServingSettings) -> int:
    """Return a slot for every tenth user, or as many as fit where memory is short.

    Raises `MemoryError` if fewer than `LEAST_SLOTS` fit.
    """
    slot_bytes = bytes_of(SlotLayout.of_model(model, 1, settings.kv_precision))
    # A memory-backed file system may hold less than the machine has.
    file_system = psutil.disk_usage(str(settings.runtime_dir.parent))
    usable = int(USABLE * min(file_system.free, psutil.virtual_memory().available))
    if usable < LEAST_SLOTS * slot_bytes:
        raise MemoryError(
            f"{LEAST_SLOTS} slots need {LEAST_SLOTS * slot_bytes >> 20} MiB; {usable >> 20} MiB may be used"
        )
    return min(max(users // USERS_PER_SLOT, LEAST_SLOTS), usable // slot_bytes)


def pools() -> int:
    """Return the retrieval instances of the model repository; each has a pool of its own."""
    config = read_config(MODEL_REPOSITORY / "retrieval" / "config.pbtxt")
    return sum(group.count for group in config.instance_group)


def run_zipf(comparison: Comparison, users: int, slots: int) -> None:
    """Run cold traffic, the fill, Zipf traffic twice, and cold traffic again, at every concurrency.

    Cold traffic stays outside: its users would push returning ones out of the pool.
    """
    levels = comparison.load.concurrencies
    for concurrency in levels:
        comparison.run_closed(COLD, comparison.plan(COLD, Kind.COLD), concurrency)
    plan = comparison.plan(ZIPF, Kind.ZIPF, users)
    comparison.fill(plan, slots)
    for concurrency in (*levels, *reversed(levels)):
        comparison.run_closed(ZIPF, plan, concurrency)
    for concurrency in levels:
        comparison.run_closed(COLD, comparison.plan(COLD, Kind.COLD), concurrency)
