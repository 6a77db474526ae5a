"""Traffic on a random bundle: histories drawn from its items, new or returning."""

from pathlib import Path

import numpy as np

from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.plan import Kind
from loadtest.histories import DrawnUsers
from loadtest.plan import LoadPlan
from loadtest.traffic import HistoryLimit, TrafficMix

COLD_USERS = 10_000
"""Users of whose events cold requests are made, each at times of its own."""


def traffic_plan(
    made: RandomBundle, kind: Kind, *, folder: Path, users: int = COLD_USERS, seed: int
) -> LoadPlan:
    """Return the plan of one kind of traffic, without a server; ids of items go to the folder.

    Returning users begin with histories that nearly fill the model's window, from one block less one below it
    on. Users of another seed are others.
    """
    model, items = made.manifest.model, folder / f"items-{made.manifest.bundle_id}.npy"
    if not items.exists():
        np.save(items, made.item_ids)
    mix = TrafficMix(
        new=0,
        anonymous=float(kind is Kind.COLD),
        returning=float(kind is not Kind.COLD),
        zipf=float(kind is Kind.ZIPF),
        anonymous_events=model.max_history,
        overlapping=False,
    )
    # Their first visit has half of their events.
    drawn = DrawnUsers(
        users=users,
        least_events=2 * (model.max_history - model.window_block + 1),
        most_events=2 * model.max_history,
        items=str(items),
        actions=model.num_actions,
        surfaces=model.num_surfaces,
        seed=seed,
    )
    limit = HistoryLimit(keep=model.max_history + model.window_block, drop=model.window_block)
    return LoadPlan(url="", mix=mix, drawn=drawn, limit=limit, seed=seed, num_results=made.num_results)
