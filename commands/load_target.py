"""The server that load goes to, and the traffic file that is replayed on it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from safetensors.numpy import load_file
from unipinrec_client.address import grpc_target, http_address
from unipinrec_client.grpc_client import channel_arguments

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import require_bundle
from ensemble.server.loopback import serve_on_loopback
from ensemble.server.server_error import ServerError
from ensemble.settings import SHARED_MEMORY, ServingSettings
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.history_store import EVENT, Events, HistoryStore
from ensemble.stores.stores import open_histories
from loadtest.histories import DrawnUsers, UserHistory, write_histories
from loadtest.plan import Protocol
from loadtest.traffic import HistoryLimit
from loadtest.watch import ServerWatch
from unipinrec.bundle import ITEMS, read_manifest
from unipinrec.data.interactions import InteractionDataset

MOST_USERS = 20_000
"""Users that a traffic file takes from a dataset or store."""

DRAWN_USERS = 1_000
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTarget:
    """A server that answers."""

    url: str
    """`host:port` of the protocol."""
    server: Mapping[str, Any]
    """For the report."""
    metrics_url: str | None = None
    processes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Ids by name, of a server on this machine."""
    memory: tuple[str, ...] = ()
    """Patterns of its files in shared memory."""

    def watch(self) -> ServerWatch:
        """Return what watches it."""
        return ServerWatch(self.processes, self.metrics_url, self.memory)


@contextmanager
def target_of(
    settings: ServingSettings, protocol: Protocol, *, url: str | None, metrics_url: str | None, log_path: Path
) -> Iterator[LoadTarget]:
    """Yield the server at `url`, or an embedded one that lives as long as the block.

    Raises:
        ServerError: it does not answer or start.
        ValueError: `url` or `metrics_url` is no address.
    """
    if metrics_url is not None:
        http_address(metrics_url)
    if url is not None:
        address = grpc_target(url) if protocol is Protocol.GRPC else http_address(url)
        yield LoadTarget(url=address, server=_metadata(address, protocol), metrics_url=metrics_url)
        return
    with serve_on_loopback(settings, log_path=log_path) as server:
        yield _embedded(server, protocol)


def _embedded(server: EmbeddedServer, protocol: Protocol) -> LoadTarget:
    nodes = {model: server.node_processes(model) for model in server.models}
    folder = server.settings.runtime_dir
    url = server.grpc_url if protocol is Protocol.GRPC else server.http_url.rpartition("://")[2]
    manifest = read_manifest(server.settings.bundle)
    return LoadTarget(
        url=url,
        server={
            **_metadata(url, protocol),
            "embedded": True,
            "bundle": manifest.bundle_id,
            "model": manifest.model.model_dump(mode="json"),
            "precision": server.settings.kv_precision,
            "threads": server.settings.threads,
            "pool_slots": server.settings.pool_slots,
            "instances": {model: len(pids) for model, pids in nodes.items() if pids},
        },
        metrics_url=server.metrics_url,
        processes={"tritonserver": [server.pid]} | {model: pids for model, pids in nodes.items() if pids},
        memory=(str(folder), str(SHARED_MEMORY / f"{folder.name}-*")),
    )


def _metadata(url: str, protocol: Protocol) -> dict[str, Any]:
    try:
        if protocol is Protocol.GRPC:
            channel = channel_arguments(url)
            with tritonclient.grpc.InferenceServerClient(url, channel_args=channel) as client:
                found = client.get_server_metadata(as_json=True, client_timeout=CONNECT_TIMEOUT_S)
        else:
            with (
                tritonclient.http.InferenceServerClient(
                    url, connection_timeout=CONNECT_TIMEOUT_S, network_timeout=CONNECT_TIMEOUT_S
                ) as client,
                gevent.Timeout(CONNECT_TIMEOUT_S, TimeoutError(f"no answer within {CONNECT_TIMEOUT_S:g} s")),
            ):
                found = client.get_server_metadata()
        return {"triton": str(found["version"]), "url": url}
    except Exception as error:  # What answers may be anything, and libraries fail at it in as many ways.
        message = " ".join(str(error).split()) or type(error).__name__
        raise ServerError(
            f"--url is {url}, where no server answers over {protocol.value}: {message};"
            f" allowed: host:port of its {protocol.value} endpoint"
        ) from None


def limit_of(bundle: Path) -> HistoryLimit:
    """Return what a caller keeps of a history: the model's window, and a block that it moves by."""
    model = read_manifest(bundle).model
    return HistoryLimit(keep=model.max_history + model.window_block, drop=model.window_block)


def write_traffic(path: Path, settings: ServingSettings, *, dataset: Path | None) -> tuple[int, str]:
    """Write a traffic file from a prepared dataset, else from stored histories with items of the bundle, else
    from events drawn from these items. Returns the users in it, and where they come from.

    Raises:
        PreparedDatasetError: `dataset` is not a prepared dataset.
        ServerError: there is no bundle.
        StoreError: what is at the settings' `histories` is no store.
    """
    if dataset is not None:
        histories = islice(dataset_histories(InteractionDataset.load(dataset)), MOST_USERS)
        return write_histories(path, _users(histories)), f"dataset {dataset}"
    require_bundle(settings.bundle)
    item_id_V, manifest = load_file(settings.bundle / ITEMS)["item_id_V"], read_manifest(settings.bundle)
    store = open_histories(settings)
    if store is not None:
        with closing(store):
            users = write_histories(path, _users(_stored(store, item_id_V, manifest.history_impressions)))
        if users:
            return users, f"histories stored at {store.address}"
    items, model = path.with_suffix(".npy"), manifest.model
    np.save(items, item_id_V)
    drawn = DrawnUsers(
        users=DRAWN_USERS,
        least_events=2,
        most_events=2 * model.max_history,
        items=str(items),
        actions=model.num_actions,
        surfaces=model.num_surfaces,
        seed=0,
    )
    users = write_histories(path, (drawn[number] for number in range(len(drawn))))
    return users, "drawn from the bundle's items"


def _stored(
    store: HistoryStore, item_id_V: NDArray[np.int64], impressions: bool
) -> Iterator[tuple[bytes, Events]]:
    for user_id in store.first_users(MOST_USERS):
        events = store.read(user_id)
        # Callers keep the latest rows alone, and impressions among them count for nothing here.
        events = events if impressions else events[events["actions"] != 0]
        # A store of other items would make every request a cold one.
        if np.isin(events["item_id"], item_id_V).any():
            yield user_id, events


def _users(histories: Iterable[tuple[bytes, Events]]) -> Iterator[UserHistory]:
    for user_id, events in histories:
        columns = (events[name].astype(np.int64) for name in EVENT.names or ())
        yield UserHistory(user_id.decode(errors="replace"), *columns)
