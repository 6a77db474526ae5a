"""What a second ranker costs: `recommend_full` beside `recommend` of one server, and the node `l2` alone.

Users have as many events and impressions as TransAct V2 reads, in a store.

Shapes: R requests or calls, K candidates.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.random_weights import spread_weights
from benchmarks.turns import (
    Side,
    TrafficCost,
    TurnsPlan,
    TurnsReport,
    ask_in_turns,
    median_of,
    run_in_turns,
)
from benchmarks.unified.plan import Kind, StackLoad
from benchmarks.unified.stacks import Comparison, comparing, rotated
from ensemble.executors.engines import second_ranker_of
from ensemble.graph import Tensors
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.l2 import L2Node
from ensemble.nodes.seal import CANDIDATE_SEAL, SEALED_LIFELONG, Seal
from ensemble.nodes.sealed_history import SealedHistory
from ensemble.owners import OWNER_BYTES
from ensemble.settings import ServingSettings
from ensemble.stores.dataset_histories import events_of
from ensemble.stores.lmdb_store import LmdbHistoryStore
from export.bundle_writer import write_bundle
from loadtest.plan import LoadPlan
from loadtest.traffic import StoredTraffic
from loadtest.windows import Window
from unipinrec.bundle import WEIGHTS, BundleError, verify_bundle
from unipinrec.config import Config
from unipinrec.data.history import History
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.config import sized
from unipinrec.models.transact.config import DAY_S, TransactV2Config
from unipinrec.models.transact.encoder_v2 import Tokens
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.nearest import nearest_rows
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.search import quantised
from unipinrec.models.transact.served import load_second_ranker
from unipinrec.training.checkpoint import save_model

SEED = 7
NOW = 1_700_000_000
SPEC = "transact-v2"
FIRST, FULL = "recommend", "recommend_full"
ENSEMBLES = (FIRST, FULL)
SLOTS = 8
"""Of the pool of keys and values: cold users come again after far more others, and warm ones are fewer."""
USERS = {Kind.COLD: 48, Kind.WARM: 4}
PASSES = 4
"""Visits of each warm user before any counts: each process of retrieval has a pool."""
WARM_UP = 5
"""Calls and pairs of requests that are not counted."""
MORE_CANDIDATES = 4
"""Times the most candidates, of which the input is measured too."""


@dataclass(frozen=True, kw_only=True)
class SecondRankerPlan(TurnsPlan):
    """Sizes and durations."""

    pairs: int = 80
    concurrency: int = 4
    rounds: int = 3
    seconds: float = 5.0
    threads: int = 2
    """Of the node alone; the server's are those of the environment."""
    calls: int = 60
    """Of the node alone."""


class NodeCost(Config):
    """The node `l2` in this process, and what it is made of, in turns."""

    events: int
    impressions: int
    candidates: int
    tokens: int
    threads: int
    calls: int
    ms: dict[str, Estimate]
    """Medians: `node` from tensors to tensors; `encoder` alone; `layers`, the encoder as training runs it;
    `search` of all three parts. With 95 % bootstrap intervals, as the next one."""
    node_over_encoder: Estimate
    """Median over turns."""
    input_bytes: dict[int, int]
    """Bytes of a request's tensors into the node, by candidates."""


class EnsembleCost(TrafficCost):
    """Both ensembles under one kind of traffic."""

    kv_source: dict[str, dict[str, int]]
    """Where keys and values came from, answers to lone requests by ensemble."""


class SecondRankerReport(TurnsReport):
    """What `unipinrec bench second-ranker` found."""

    subject: str = "second-ranker"
    load_average: float
    """Of the last minute when the run began: what else the machine did."""
    weights: str = "random"
    server_threads: int
    node: NodeCost
    traffic: dict[str, EnsembleCost]

    def table(self) -> Table:
        """Return the figures for a terminal."""
        table = Table("traffic", "what", "p50", "difference", "QPS", "ratio")
        for name, took in self.node.ms.items():
            told = f"{took.mean:.2f} ms ({took.low:.2f} to {took.high:.2f})"
            table.add_row("none", f"l2 alone: {name}", told, "", "", "")
        ratio = self.node.node_over_encoder
        told = f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        table.add_row("none", "l2 alone: node over encoder", "", "", "", told)
        for kind, found in self.traffic.items():
            found.add_rows(table, kind)
        return table


def measure_second_ranker(plan: SecondRankerPlan, tell: Callable[[str], None]) -> SecondRankerReport:
    """Return what the second ranker costs, served and alone.

    Raises `ServerError` if the server does not start, and `FillError` if a request fails.
    """
    load_average = os.getloadavg()[0]
    tell(f"bundle of {plan.items:,} items with random weights")
    made = make_random_bundle(plan.items, plan.out / "bundles", lambda _: None, sizes=plan.sizes)
    bundle = LoadedBundle.open(with_second_ranker(made))
    tell("the node alone")
    node = measure_node(bundle, plan)
    settings = ServingSettings(
        bundle=bundle.folder, histories=plan.out / "histories", histories_url=None, pool_slots=SLOTS
    )
    users = write_users(settings.histories, made, config_of(bundle))
    load = StackLoad(seconds=plan.seconds, least_replies=0)
    log = plan.out / "second-ranker" / "server.log"
    tell("starting a server")
    with comparing(made, settings, {name: name for name in ENSEMBLES}, load, log, tell) as server:
        traffic = {}
        for kind, names in users.items():
            tell(f"{plan.pairs} requests to each ensemble, then {plan.rounds} windows, {kind}")
            traffic[str(kind)] = _measure_traffic(server, made.num_results, kind, names, plan)
    threads = settings.threads
    return SecondRankerReport.of(
        plan, load_average=load_average, server_threads=threads, node=node, traffic=traffic
    )


def _measure_traffic(
    server: Comparison, num_results: int, kind: Kind, names: Sequence[str], plan: SecondRankerPlan
) -> EnsembleCost:
    users = StoredTraffic(names)
    ask = LoadPlan(url=server.server.grpc_url, timeout_s=server.load.timeout_s, num_results=num_results)
    sides = {name: _side(server, replace(ask, model=name), users, plan.concurrency) for name in ENSEMBLES}
    if kind is Kind.WARM:
        sides[FIRST].fill(PASSES * len(names))
    turns = list(ask_in_turns(sides, WARM_UP + plan.pairs))
    sources = {name: Counter(turn[name].reply.kv_source for turn in turns) for name in ENSEMBLES}
    return EnsembleCost.of(turns[WARM_UP:], run_in_turns(sides, plan.rounds), kv_source=sources)


def _side(server: Comparison, ask: LoadPlan, users: StoredTraffic, concurrency: int) -> Side:
    """Return an ensemble that is asked for the next user, whichever had the last: neither finds keys and
    values of a cold user that the other has left."""

    def run_window() -> Window:
        window = server.run_closed(ask.model, replace(ask, stored=users.user_ids), concurrency)
        users.skip(len(window.outcomes))
        return window

    return Side(ask, users, run_window)


def with_second_ranker(made: RandomBundle) -> Path:
    """Return the folder of the bundle with a TransAct V2 of random weights beside its model."""
    base = made.folder.parents[1]
    bundles = base / "bundles-with-second-ranker"
    try:
        return _verified(bundles)
    except BundleError:
        pass
    dataset = InteractionDataset.load(base / "data")
    config = sized(TransactV2Config, made.sizes, dataset.catalogue_fields)
    config = config.model_copy(update={"search_dim": config.item_dim})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = TransActV2(config)
    spread_weights(model, SEED)
    model.search_VW.copy_(quantised(model.embedder.all_vectors()))
    checkpoint = save_model(base / SPEC, SPEC, config, model, dataset.info.sha256)
    write_bundle(made.checkpoint, dataset, bundles, beside=[checkpoint], report=lambda _: None)
    return _verified(bundles)


def _verified(bundles: Path) -> Path:
    folder = (bundles / "current").resolve()
    verify_bundle(folder)
    return folder


def config_of(bundle: LoadedBundle) -> TransactV2Config:
    """Return the second ranker's configuration."""
    return bundle.manifest.config_of(SPEC, TransactV2Config)


def drawn_history(user: int, config: TransactV2Config) -> History:
    """Return as many events and impressions as the model reads, in random order over half a year."""
    draw = np.random.default_rng((SEED, user))
    length = config.max_events + config.max_impressions
    is_event_N = draw.permutation(length) < config.max_events
    return History(
        item_row_N=draw.integers(config.num_items, size=length),
        actions_N=is_event_N * draw.integers(1, 2**config.num_actions, size=length),
        timestamp_N=NOW - np.sort(draw.integers(1, 180 * DAY_S, size=length))[::-1],
        surface_N=draw.integers(config.num_surfaces, size=length),
    )


def write_users(folder: Path, made: RandomBundle, config: TransactV2Config) -> dict[Kind, list[str]]:
    """Return the users of each kind of traffic, whose histories are in the store now."""
    names = {kind: [f"{kind}-{user}" for user in range(count)] for kind, count in USERS.items()}
    histories = [
        (name.encode(), events_of(drawn_history(user, config), made.item_ids))
        for user, name in enumerate(itertools.chain.from_iterable(names.values()))
    ]
    with LmdbHistoryStore(folder, writable=True) as store:
        store.replace_all(lambda: histories)
    return names


def node_input(bundle: LoadedBundle, settings: ServingSettings, candidates: int) -> Tensors:
    """Return the tensors of a request of one user."""
    config, draw = config_of(bundle), np.random.default_rng((SEED, 1, candidates))
    history = SealedHistory(
        history=drawn_history(0, config), request_time=NOW, surface=0, owner=bytes(OWNER_BYTES)
    )
    tensors: Tensors = {"CANDIDATE_ITEMS": draw.permutation(config.num_items)[None, :candidates]}
    seal = Seal(settings, bundle.id)
    tokens = seal.tokens(1)
    sealed = seal.close(SEALED_LIFELONG, tokens, [history.to_bytes()])
    return tensors | sealed | seal.close(CANDIDATE_SEAL, tokens, beside=tensors)


def measure_node(bundle: LoadedBundle, plan: SecondRankerPlan) -> NodeCost:
    """Return what a call of the node takes with the most candidates of a request, and the encoder alone."""
    config, candidates = config_of(bundle), bundle.manifest.model.max_candidates
    settings = ServingSettings(bundle=bundle.folder, threads=plan.threads, seal_lifetime_s=86_400).sealing()
    node = L2Node(bundle, second_ranker_of({"model_instance_kind": "CPU"}, bundle, settings), settings)
    tensors = node_input(bundle, settings, candidates)
    model = load_second_ranker(bundle.folder / SPEC / WEIGHTS, config)
    if not isinstance(model, TransActV2):
        raise TypeError(f"model is a {type(model).__name__}; allowed: TransActV2")
    request = OfflineRequest(history=drawn_history(0, config), request_time=NOW)
    requests = OfflineSecondRanker(model).request_batch([request], [tensors["CANDIDATE_ITEMS"][0]])
    with torch.inference_mode():
        found = nearest_rows(requests, model.search_VW, config)
        candidate_KE = model.vectors(requests.candidate_item_C)
        tokens = Tokens.of(requests, found, config)
        encoded = (tokens, requests, candidate_KE, model.vectors)
        parts: dict[str, Callable[[], object]] = {
            "node": lambda: node.pack(node.run(node.parse(tensors))),
            "encoder": lambda: model.encoder.summaries(*encoded),
            "layers": lambda: model.encoder(*encoded),
            "search": lambda: nearest_rows(requests, model.search_VW, config),
        }
        took_RX = np.array([_turn(parts, turn) for turn in range(WARM_UP + plan.calls)])[WARM_UP:]
    node.close()
    took_ms = dict(zip(parts, took_RX.T, strict=True))
    return NodeCost(
        events=config.max_events,
        impressions=config.max_impressions,
        candidates=candidates,
        tokens=tokens.row_CT.size(1),
        threads=plan.threads,
        calls=plan.calls,
        ms={name: median_of(took_R) for name, took_R in took_ms.items()},
        node_over_encoder=median_of(took_ms["node"] / took_ms["encoder"]),
        input_bytes={
            count: sum(map(_bytes_of, node_input(bundle, settings, count).values()))
            for count in (1, candidates, MORE_CANDIDATES * candidates)
        },
    )


def _bytes_of(tensor: NDArray[Any]) -> int:
    return sum(map(len, tensor.flat)) if tensor.dtype == np.object_ else tensor.nbytes


def _turn(parts: Mapping[str, Callable[[], object]], turn: int) -> list[float]:
    """Return the milliseconds of each part, called in turns who is first."""
    took_ms = {}
    for name in rotated(list(parts), turn):
        began = time.perf_counter()
        parts[name]()
        took_ms[name] = 1e3 * (time.perf_counter() - began)
    return [took_ms[name] for name in parts]
