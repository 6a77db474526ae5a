"""Every stage once, on MovieLens 100K: data, training, export, serving, requests, evaluation."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from unipinrec_client import GrpcClient, HttpClient, RecommendRequest, RecommendResponse

from demo.pictures import show_answer, show_quality
from demo.report import Report
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.installation import Installation
from ensemble.server.loopback import serve_on_loopback
from ensemble.settings import ServingSettings
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.lmdb_store import LmdbHistoryStore
from export.bundle_writer import write_bundle
from unipinrec.bundle import UNIFIED, read_manifest
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.data.movielens import fetch_movielens
from unipinrec.evaluation.bootstrap import estimate
from unipinrec.evaluation.catalogue import ndcg_at_k, recall_at_k
from unipinrec.evaluation.leave_one_out import K, Quality, evaluate_leave_one_out
from unipinrec.models.registry import find_model
from unipinrec.models.spec import blended_examples
from unipinrec.models.unified.config import DEMO_SIZES, DEMO_TRAINING, preset
from unipinrec.training.checkpoint import load_offline
from unipinrec.training.trainer import train

EXAMPLE_USERS = ("42", "7", "314")
TIMED_REQUESTS, TIMED_EVENTS = 50, 128
USERS_PER_REQUEST = 16


def run_tour(build: Path, console: Console) -> Report:
    """Run all stages and write `build/demo/report.json`; what an earlier run left is used again."""
    Installation.find(ServingSettings().triton_home)
    report = Report()
    with report.stage("data"):
        fetch_movielens(build / "data" / "movielens", console.print)
        dataset = InteractionDataset.load(build / "data" / "movielens")
    with report.stage("train"):
        checkpoint = _train(dataset, build / "checkpoints" / "demo")
    with report.stage("export"):
        bundle = write_bundle(checkpoint, dataset, build / "bundles", report=console.print)
    histories = build / "stores" / "histories"
    with report.stage("store"):
        _store(dataset, histories, console)
    manifest = read_manifest(bundle)
    report.bundle_id, report.training = manifest.bundle_id, manifest.models[UNIFIED].training_metrics
    with report.stage("evaluate_offline"):
        report.quality = evaluate_leave_one_out(load_offline(checkpoint), dataset, console.print)
    with _serving(bundle, histories, console, report) as server:
        with report.stage("example_requests"):
            _ask_for_examples(server, dataset, console, report)
        with report.stage("evaluate_served"):
            report.quality |= _evaluate_served(server, dataset, report)
    show_quality(console, report.quality)
    path = build / "demo" / "report.json"
    report.write(path)
    console.print(f"report written to {path}")
    console.print("to look at it: `make serve`, and beside it `make explore` (http://127.0.0.1:8501)")
    return report


def _train(dataset: InteractionDataset, folder: Path) -> Path:
    spec, config = find_model(UNIFIED), preset("demo", **DEMO_SIZES, **dataset.catalogue_fields)
    examples = blended_examples(dataset, config, DEMO_TRAINING.seed)
    return train(spec, examples, config, DEMO_TRAINING, folder)


def _store(dataset: InteractionDataset, histories: Path, console: Console) -> None:
    """All histories but each user's last event, which is asked for, in place of what the store held."""
    with LmdbHistoryStore(histories, writable=True) as store:
        written = store.replace_all(lambda: dataset_histories(dataset, skip_last=1))
    console.print(f"{written.events:,} events of {written.histories:,} users stored in {histories}")


@contextmanager
def _serving(bundle: Path, histories: Path, console: Console, report: Report) -> Iterator[EmbeddedServer]:
    """The bundle on an embedded server that listens on free loopback ports."""
    settings = ServingSettings(bundle=bundle.absolute(), histories=histories.absolute(), histories_url=None)
    with ExitStack() as stack:
        with report.stage("start_server"), console.status("Triton is loading the nodes …"):
            server = stack.enter_context(serve_on_loopback(settings))
        console.print(f"Triton serves {bundle.name}: gRPC {server.grpc_url}, HTTP {server.http_url}")
        yield server


def _ask_for_examples(
    server: EmbeddedServer, dataset: InteractionDataset, console: Console, report: Report
) -> None:
    """Three users over both protocols, whose answers must be equal; then the latency of single requests."""
    split = split_leave_one_out(dataset)
    with GrpcClient(server.grpc_url) as grpc, HttpClient(server.http_url) as http:
        for name in EXAMPLE_USERS:
            user = int(np.flatnonzero(dataset.user_ids_U == name)[0])
            length = int(split.train_end_U[user]) + 1
            request = _request(dataset, user, length)
            answers = (grpc.recommend(request), http.recommend(request))
            if answers[0].recommendations != answers[1].recommendations:
                raise RuntimeError(f"user {name}: gRPC and HTTP answered differently")
            show_answer(console, dataset, user, length, answers[0])
            _count(report, answers)
        users = iter(_users_with_long_histories(dataset, 2 * TIMED_REQUESTS))
        for protocol, client in (("grpc", grpc), ("http", http)):
            new = [_request(dataset, next(users), TIMED_EVENTS + 1) for _ in range(TIMED_REQUESTS)]
            report.request_ms[f"{protocol}, user not cached"] = _median_ms(client, new)
            report.request_ms[f"{protocol}, user cached"] = _median_ms(client, [new[-1]] * TIMED_REQUESTS)


def _users_with_long_histories(dataset: InteractionDataset, count: int) -> list[int]:
    """Users whose stored window is full or nearly so."""
    stored_U = split_leave_one_out(dataset).train_end_U + 1
    users: list[int] = np.flatnonzero(stored_U > TIMED_EVENTS)[:count].tolist()
    return users


def _median_ms(client: GrpcClient | HttpClient, requests: Sequence[RecommendRequest]) -> float:
    taken = []
    for request in requests:
        began = time.perf_counter()
        client.recommend(request)
        taken.append(1e3 * (time.perf_counter() - began))
    return round(statistics.median(taken), 2)


def _evaluate_served(server: EmbeddedServer, dataset: InteractionDataset, report: Report) -> Quality:
    """Held-out quality of what the server returns: both stages, the first 10 of the default utility."""
    split = split_leave_one_out(dataset)
    user_U = np.flatnonzero(split.held_out_U)
    ranks: list[int] = []
    starts = range(0, len(user_U), USERS_PER_REQUEST)
    with GrpcClient(server.grpc_url) as client:
        for start in track(starts, description="served evaluation"):
            users = user_U[start : start + USERS_PER_REQUEST].tolist()
            lengths = [int(split.train_end_U[user]) + 1 for user in users]
            requests = [_request(dataset, user, length) for user, length in zip(users, lengths, strict=True)]
            responses = client.recommend_many(requests)
            _count(report, responses)
            for user, length, response in zip(users, lengths, responses, strict=True):
                target = dataset.item_ids_V[dataset.history(user).item_row_N[length]]
                found = [item.item_id for item in response.recommendations]
                ranks.append(found.index(target) + 1 if target in found else K + 1)
    rank_U = np.array(ranks)
    metrics = {f"recall@{K}": recall_at_k(rank_U, K), f"ndcg@{K}": ndcg_at_k(rank_U, K)}
    return {"unipinrec_served": {name: estimate(value_U) for name, value_U in metrics.items()}}


def _request(dataset: InteractionDataset, user: int, length: int) -> RecommendRequest:
    """Ten items at the time of the user's held-out event; the history is the one that the server stores."""
    return RecommendRequest(
        user_id=str(dataset.user_ids_U[user]),
        request_time=int(dataset.history(user).timestamp_N[length]),
        num_results=K,
    )


def _count(report: Report, responses: Sequence[RecommendResponse]) -> None:
    report.kv_source = dict(Counter(report.kv_source) + Counter(response.kv_source for response in responses))
