"""What else the hot path could be: other precisions and compilers, other storage of keys and values.

Everything runs in this process on one thread. Differences of probabilities are those of random weights with
widely spread scores, or of a bundle's own.

Shapes: K results, A actions.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmarks.nodes import nodes_in_process
from benchmarks.sweep.graphs import APPENDED, CANDIDATES, EVENTS, PRESET, Graph, ServedGraphs, scripted
from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, median_ms, run_sweeps
from ensemble.graph import MODEL_REPOSITORY, CallNode, Tensors, call_in_process, ensembles_in
from ensemble.kv.shared_memory import bytes_of
from ensemble.kv.slot_storage import SlotLayout
from ensemble.nodes.seal import CANDIDATE_SEAL, QUERY_SEAL, SEALED_HISTORY, Seal
from ensemble.nodes.sealed_history import SealedHistory
from ensemble.settings import Precision, ServingSettings
from ensemble.stores.lmdb_store import LmdbHistoryStore
from unipinrec.bundle import read_manifest

TOP = 10
NOW = 1_800_000_000
LARGEST = "largest difference of a probability"
RECOMMEND = ensembles_in(MODEL_REPOSITORY)["recommend"]

WAYS: dict[str, tuple[torch.dtype, Callable[[nn.Module], Graph]]] = {
    "float32, eager": (torch.float32, lambda graph: graph),
    "float32, TorchScript (served)": (torch.float32, scripted),
    "float32, torch.compile": (torch.float32, torch.compile),
    "bfloat16, TorchScript": (torch.bfloat16, scripted),
}


def options(bundle: Path, users: int, seconds: float, tell: Callable[[str], None]) -> SweepReport:
    """Measure ways to run the graphs, and storage of keys and values on so many users of the store.

    Raises:
        BundleError: there is no bundle.
        StoreError: there is no store at the settings' `histories`.
    """
    settings = ServingSettings(bundle=bundle, pool_slots=4)
    with LmdbHistoryStore(settings.histories) as store:
        names = store.first_users(users)
    described = {"preset": PRESET, "bundle": read_manifest(bundle).dataset, "users": len(names)}
    ways = Sweep("how the graphs run", tuple(WAYS), _ways(seconds))
    storage = Sweep("keys and values kept in", get_args(Precision), _storage(settings, names))
    return run_sweeps("options", described | {"seconds": seconds}, [ways, storage], tell)


def _ways(seconds: float) -> Callable[[str], Measures]:
    expected: list[Tensor] = []

    def measure(way: str) -> Measures:
        dtype, make = WAYS[way]
        graphs = ServedGraphs(make=make, dtype=dtype)
        histories, cached = [graphs.history()], EVENTS + 1 - APPENDED
        whole = median_ms(lambda: graphs.encode(histories), seconds)
        probability_KA = graphs.rank()[0].float()
        expected.append(probability_KA)
        return {
            "whole history, ms": whole,
            f"last {APPENDED} events, ms": median_ms(lambda: graphs.encode(histories, cached), seconds),
            f"{CANDIDATES} candidates, ms": median_ms(graphs.rank, seconds),
            LARGEST: float((probability_KA - expected[0]).abs().max()),
        }

    return measure


def _storage(settings: ServingSettings, users: Sequence[bytes]) -> Callable[[Precision], Measures]:
    settings = settings.sealing()
    seal = Seal(settings, read_manifest(settings.bundle).bundle_id)
    candidates: dict[bytes, Tensors] = {}
    expected: list[Tensors] = []

    def measure(precision: Precision) -> Measures:
        requests = [
            {"USER_ID": np.array([[user]], np.object_), "REQUEST_TIME": np.array([[NOW]])} for user in users
        ]
        with nodes_in_process(settings.model_copy(update={"kv_precision": precision})) as nodes:
            call = call_in_process(nodes)
            answers = [
                RECOMMEND.run(request, _continuing(call, seal, user, candidates))
                for user, request in zip(users, requests, strict=True)
            ]
            # Their histories are cached.
            timers = [
                Timer("run(request, call)", globals={"run": RECOMMEND.run, "request": request, "call": call})
                for request in requests
            ]
            again_ms = 1e3 * statistics.median(timer.timeit(1).mean for timer in timers)
        expected.extend(answers if not expected else ())
        slot_bytes = bytes_of(SlotLayout.of_model(read_manifest(settings.bundle).model, 1, precision))
        return {
            "slot, bytes": slot_bytes,
            "users in 1 GiB": 2**30 // slot_bytes,
            **_differences(expected, answers),
            "request of a cached user, ms": again_ms,
        }

    return measure


def _continuing(call: CallNode, seal: Seal, user: bytes, candidates: dict[bytes, Tensors]) -> CallNode:
    """Return what calls nodes as `call` does, but encodes the last events behind a cached history, and ranks
    the same candidates each time."""

    def call_node(node: str, inputs: Tensors) -> Tensors:
        if node == "retrieval":
            # Most of the history is cached, in this precision, before its last events are.
            (opened,) = seal.open(inputs, SEALED_HISTORY)
            sealed = SealedHistory.from_bytes(opened.content[SEALED_HISTORY])
            shorter = replace(sealed, history=sealed.history[: max(1, len(sealed.history) - APPENDED)])
            call(node, inputs | seal.close(SEALED_HISTORY, [opened.token], [shorter.to_bytes()]))
        if node != "ann":
            return call(node, inputs)
        if user not in candidates:
            candidates[user] = call(node, inputs)
        (opened,) = seal.open(inputs, QUERY_SEAL)
        found = candidates[user]
        return found | seal.close(CANDIDATE_SEAL, [opened.token], beside=found)

    return call_node


def _differences(expected: Sequence[Tensors], answers: Sequence[Tensors]) -> Measures:
    largest, means, overlaps = [], [], []
    for right, answer in zip(expected, answers, strict=True):
        items, other_items = right["ITEM_IDS"][0], answer["ITEM_IDS"][0]
        # The same items, each list in an order of its own.
        shared, place, other = np.intersect1d(items, other_items, return_indices=True)
        away_KA = np.abs(right["ACTION_PROBS"][0, place] - answer["ACTION_PROBS"][0, other])
        largest.append(float(away_KA.max()))
        means.append(float(away_KA.mean()))
        overlaps.append(len(np.intersect1d(items[:TOP], other_items[:TOP])) / min(TOP, len(shared)))
    return {
        LARGEST: max(largest),
        "mean difference of a probability": statistics.fmean(means),
        f"overlap of the best {TOP}": statistics.fmean(overlaps),
    }
