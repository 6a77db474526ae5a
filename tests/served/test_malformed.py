"""Malformed requests to every model over both protocols: nobody dies of them."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unipinrec_client import GrpcClient

from containers.proxy import Proxy
from ensemble.graph import Tensors
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ROOT, SHARED_MEMORY
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.lmdb_store import LmdbHistoryStore
from loadtest.report import machine, write_report
from loadtest.watch import ServerWatch
from tests.conftest import NOW, Exported, serving
from tests.served.nodes import RECOMMEND, call, int64
from tests.served.requests import stored
from tests.support.malformed import LEFT_OUT, Draw, Judged, send_malformed
from tests.support.tools import tool
from tests.support.wire import Wire, WireRequest

MANY = int(os.environ.get("UNIPINREC_MALFORMED", "20000"))
"""Requests of the long test."""
RESULT = ROOT / "benchmarks" / "results" / "malformed.json"
WARM_UP = 2_000
FRESH = 50
"""Requests after which inner nodes get tensors that were sealed anew."""
SEED = 17


@pytest.fixture(scope="module")
def target(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory, profile: str | None
) -> Iterator[EmbeddedServer]:
    """A server of its own, that takes events too."""
    folder = tmp_path_factory.mktemp("malformed")
    with LmdbHistoryStore(folder / "histories", writable=True) as store:
        store.replace_all(lambda: dataset_histories(exported.dataset))
    own = replace(exported, histories=folder / "histories")
    with serving(
        own, folder / "server.log", profile=profile, append_events=True, log_level="WARNING"
    ) as server:
        yield server


def good_requests(server: EmbeddedServer, exported: Exported, user: int) -> dict[str, WireRequest]:
    """A request of one user to every model, as callers or other nodes send it."""
    history = exported.dataset.history(user)
    weights = np.ones((1, 3), np.float32)
    request: Tensors = {
        "USER_ID": np.array([[f"user-{user}".encode()]], np.object_),
        "REQUEST_TIME": int64(NOW),
        "SURFACE": int64(user % 2),
        "NUM_RESULTS": int64(5),
        "OUTCOME_WEIGHTS": weights,
        "UTILITY_WEIGHTS": weights,
        "EXCLUDE_ITEM_IDS": int64(1000, 1003, 7),
    }
    if user % 3:
        request |= {
            "HISTORY_ITEM_IDS": exported.dataset.item_ids_V[history.item_row_N][None],
            "HISTORY_ACTIONS": history.actions_N[None],
            "HISTORY_TIMESTAMPS": history.timestamp_N[None],
            "HISTORY_SURFACES": history.surface_N[None].astype(np.int64),
        }
    appended = {"ITEM_IDS": int64(1000, 1003), "ACTIONS": int64(1, 2), "TIMESTAMPS": int64(NOW, NOW)}
    sent: dict[str, Tensors] = {
        "recommend": request,
        "append_events": {"USER_ID": np.array([[b"appends"]], np.object_), **appended},
    }

    def step(node: str, inputs: Tensors) -> Tensors:
        sent[node] = inputs
        return call(server, node, inputs)

    RECOMMEND.run(request, step)
    return {model: WireRequest.of(model, tensors) for model, tensors in sent.items()}


def processes(server: EmbeddedServer) -> dict[str, list[int]]:
    nodes = {node: sorted(server.node_processes(node)) for node in server.models}
    return {"tritonserver": [server.pid], **nodes}


@contextmanager
def unharmed(server: EmbeddedServer, exported: Exported, found: dict[str, Any]) -> Iterator[None]:
    """Nobody dies meanwhile, memory is told, and answers are the same before and after."""
    name = server.settings.runtime_dir.name
    watch = ServerWatch(
        processes(server),
        memory=[str(server.settings.runtime_dir), str(SHARED_MEMORY / f"{name}-*")],
    )
    asked = [stored(exported, user) for user in range(8)]

    def sample(when: str) -> list[tuple[int, ...]]:
        found[f"rss_bytes_{when}"], found[f"shared_bytes_{when}"] = watch.rss_bytes(), watch.shared_bytes()
        with GrpcClient(server.grpc_url) as client:
            answers = [client.recommend(request).recommendations for request in asked]
        return [tuple(item.item_id for item in answer) for answer in answers]

    before = processes(server), sample("before")
    yield
    assert (processes(server), sample("after")) == before


def send_many(
    wire: Wire, server: EmbeddedServer, exported: Exported, count: int, draw: Draw, into: Judged
) -> None:
    item_ids = set(exported.dataset.item_ids_V.tolist())
    for number in range(count):
        if number % FRESH == 0:
            made = [good_requests(server, exported, user) for user in draw.sample(range(300), 2)]
            bases = {model: [good[model] for good in made] for model in made[0]}
        send_malformed(wire, bases, draw, item_ids, into)
        if into.requests % 1_000 == 0:
            print(f"{into.requests} of {count}, {len(into.wrong)} wrong")


@pytest.mark.parametrize(
    "count", [600, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(7_200)])]
)
def test_malformed_requests_are_refused_or_answered_rightly_and_end_no_process(
    target: EmbeddedServer, exported: Exported, count: int
) -> None:
    draw, began, found = Draw(SEED), time.monotonic(), dict[str, Any]()
    judged, warm_up = Judged(), Judged()
    with closing(Wire(target.grpc_url, target.http_url)) as wire:
        send_many(wire, target, exported, min(WARM_UP, count // 3), draw, warm_up)
        with unharmed(target, exported, found):
            send_many(wire, target, exported, count, draw, judged)
    found |= {"rss_growth": found["rss_bytes_after"] / found["rss_bytes_before"]}
    found |= {"shared_growth": found["shared_bytes_after"] / found["shared_bytes_before"]}
    if count == MANY:
        conditions = {"machine": machine(), "seed": SEED, "models": target.models, "data": "synthetic"}
        took = {"seconds": time.monotonic() - began, "left_out": LEFT_OUT}
        write_report(RESULT, conditions | took | found | judged.report())
    assert judged.wrong == []
    assert warm_up.wrong == []
    assert found["shared_growth"] < 1.2
    assert found["rss_growth"] < 1.2


def test_malformed_requests_through_the_proxy_end_no_process_either(
    target: EmbeddedServer, exported: Exported, tmp_path: Path
) -> None:
    for name in ("haproxy", "openssl"):
        tool(name)
    judged = Judged()
    with Proxy([target.endpoints] * 3, tmp_path) as proxy:
        proxy.wait_for("grpc/replica-1", "UP")
        through = Wire(proxy.grpc_url, proxy.http_url, proxy.certificate, proxy.headers)
        with closing(through) as wire, unharmed(target, exported, {}):
            send_many(wire, target, exported, 300, Draw(SEED + 1), judged)
    assert judged.wrong == []
