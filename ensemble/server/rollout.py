"""Another bundle for a server that goes on answering: loaded beside the one that serves, tried, switched to.

A server holds the nodes of two bundles at most: those that callers reach, and those that stand by. What an
ensemble's steps name decides, and Triton turns to a changed ensemble at once, while requests under way end on
the nodes where they began.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as triton

from ensemble.graph import call_server
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.model_loader import ModelLoader
from ensemble.server.node_set import NodeSet, standby_name
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError
from ensemble.stores.stores import open_histories
from unipinrec.bundle import Manifest

CANARIES, AT_ONCE = 48, 2
"""Requests that a bundle has to answer before callers get it. Graphs are optimised in the first runs of each
instance, so that there are several, at once."""
CANARY_TIMEOUT_S = 30.0
NEWCOMER = b"canary"

Tell = Callable[[str], None]
"""Gets a line of progress."""


class RolloutError(ServerError):
    """Why callers keep the bundle that they had."""


class Rollout:
    """What may be asked of a server about its bundles, one thing at a time."""

    def __init__(
        self, server: EmbeddedServer, check: Callable[[Path], None], link: Path | None = None
    ) -> None:
        """`check` raises `ServerError` for what is no sound bundle. `link` is what the next start serves; it
        is moved along."""
        self._server = server
        self._check = check
        self._link = link
        self._busy = threading.Lock()

    def status(self) -> dict[str, Any]:
        """Return which bundles are loaded, for JSON."""
        server = self._server
        return {
            "pid": os.getpid(),
            "grpc": server.grpc_url,
            "http": server.http_url,
            "busy": self._busy.locked(),
            "serving": _told(server, server.serving),
            "standby": server.standby and _told(server, server.standby),
        }

    def deploy(self, bundle: Path, tell: Tell, *, free_old: bool = False) -> None:
        """Turn callers to a bundle, and keep the nodes of the one before for `rollback` unless `free_old`.

        Raises `ServerError`, and callers keep what they had, if the bundle is not sound, does not fit what
        callers send and the store holds, does not load or does not answer.
        """
        folder = bundle.resolve()
        with self._only(), ModelLoader(self._server) as loader:
            tell(f"Checking {folder}")
            self._check(folder)
            server = self._server
            nodes = server.node_set(server.serving.other, folder)
            if server.serving.manifest is not None and nodes.manifest is not None:
                check_fits(server.serving.manifest, nodes.manifest)
            if server.standby is not None:
                self._free(loader, tell)
            try:
                self._load(loader, nodes, tell)
                self._try(loader, nodes, CANARIES, tell)
                with server.changing:
                    server.standby = nodes
                    self._switch(loader, tell, [self._turn_alone, self._turn_ensembles])
            except Exception:  # Whatever it is, callers keep what they had.
                if server.serving.number != nodes.number:
                    server.standby = None
                    self._clear_up(loader, nodes, tell)
                raise
            if free_old:
                self._free(loader, tell)

    def rollback(self, tell: Tell) -> None:
        """Turn callers back to the bundle before, whose nodes stand by. Raises `ServerError` if there are
        none, or they do not answer."""
        with self._only(), ModelLoader(self._server) as loader, self._server.changing:
            self._try(loader, self._standing_by(), AT_ONCE, tell)
            self._switch(loader, tell, [self._turn_ensembles, self._turn_alone])

    def free(self, tell: Tell) -> None:
        """Unload the nodes that stand by. Raises `ServerError` if there are none."""
        with self._only(), ModelLoader(self._server) as loader:
            self._standing_by()
            self._free(loader, tell)

    @contextmanager
    def _only(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RolloutError("another deploy or rollback is under way; wait until it has ended")
        try:
            yield
        finally:
            self._busy.release()

    def _standing_by(self) -> NodeSet:
        if self._server.standby is None:
            raise RolloutError("no other bundle is loaded; `unipinrec deploy` loads one")
        return self._server.standby

    def _load(self, loader: ModelLoader, nodes: NodeSet, tell: Tell) -> None:
        loader.repository.write_nodes(nodes)
        for node in nodes.selection.nodes:
            name = nodes.name_of(node)
            tell(f"Loading {name}")
            loader.load(name, beside=self._server.serving.name_of(node))
        for ensemble in nodes.selection.ensembles:
            loader.repository.write_ensemble(ensemble, standby_name(ensemble), nodes)
            loader.load(standby_name(ensemble))

    def _try(self, loader: ModelLoader, nodes: NodeSet, times: int, tell: Tell) -> None:
        users = [NEWCOMER, *_users(self._server.settings, times - 1)]
        users = (users * times)[:times]
        call = call_server(loader.client, CANARY_TIMEOUT_S)
        for ensemble in nodes.selection.ensembles:
            name = standby_name(ensemble)
            tell(f"Asking {name} {times} times")

            def ask(user: bytes, name: str = name) -> None:
                answer = call(name, {"USER_ID": np.array([[user]], np.object_)})
                found = answer["BUNDLE_ID"][0, 0].decode()
                if found != nodes.bundle_id or not np.isfinite(answer["SCORES"]).all():
                    raise RolloutError(f"{name} answered with bundle {found} and scores {answer['SCORES']}")

            with ThreadPoolExecutor(AT_ONCE) as pool:
                try:
                    list(pool.map(ask, users))
                except triton.InferenceServerException as error:
                    raise RolloutError(f"{name} does not answer: {error.message()}") from error

    def _switch(self, loader: ModelLoader, tell: Tell, turns: Sequence[Callable[..., None]]) -> None:
        server = self._server
        old, new = server.serving, replace(self._standing_by(), since=datetime.now(UTC))
        try:
            for turn in turns:
                turn(loader, old, new)
        except Exception:
            for turn in turns:
                turn(loader, new, old)
            raise
        server.serving, server.standby = new, old
        server.settings = server.settings.model_copy(update={"bundle": new.bundle})
        for ensemble in old.selection.ensembles:
            loader.repository.write_ensemble(ensemble, standby_name(ensemble), old)
            loader.load(standby_name(ensemble))
        gone = set(new.selection.ensembles) - set(old.selection.ensembles)
        for name in map(standby_name, sorted(gone)):
            loader.unload(name, float(server.settings.exit_timeout_s))
        tell(f"Serving {new.bundle_id}; {old.bundle_id} stands by")
        self._move_link(new.bundle, tell)

    def _turn_ensembles(self, loader: ModelLoader, old: NodeSet, new: NodeSet) -> None:
        for ensemble in new.selection.ensembles:
            loader.repository.write_ensemble(ensemble, ensemble, new)
            loader.load(ensemble)
        for ensemble in sorted(set(old.selection.ensembles) - set(new.selection.ensembles)):
            loader.unload(ensemble, float(self._server.settings.exit_timeout_s))

    def _turn_alone(self, loader: ModelLoader, old: NodeSet, new: NodeSet) -> None:
        """Start the models that no ensemble has as a step anew; the old processes answer until then."""
        loader.repository.write_alone(new)
        for model in new.selection.alone:
            loader.load(model)
        for model in sorted(set(old.selection.alone) - set(new.selection.alone)):
            loader.unload(model, float(self._server.settings.exit_timeout_s))

    def _free(self, loader: ModelLoader, tell: Tell) -> None:
        with self._server.changing:
            nodes = self._standing_by()
            self._server.standby = None
        tell(f"Freeing {nodes.bundle_id}")
        self._remove(loader, nodes)

    def _clear_up(self, loader: ModelLoader, nodes: NodeSet, tell: Tell) -> None:
        try:
            self._remove(loader, nodes)
        except (ServerError, OSError) as error:  # Why the bundle is refused matters more.
            tell(f"{nodes.bundle_id} may still be loaded: {error}")

    def _remove(self, loader: ModelLoader, nodes: NodeSet) -> None:
        timeout_s = float(self._server.settings.exit_timeout_s)
        for name in map(standby_name, nodes.selection.ensembles):
            loader.unload(name, timeout_s)
            loader.repository.remove(name)
        loaded = loader.loaded()
        loader.until_idle([name for name in nodes.nodes if name in loaded], timeout_s)
        # In the order of the graph, so that no request is cut off from its next step.
        for name in nodes.nodes:
            loader.unload(name, timeout_s)
            loader.repository.remove(name)
        shutil.rmtree(nodes.runtime_dir, ignore_errors=True)

    def _move_link(self, bundle: Path, tell: Tell) -> None:
        if self._link is None or self._link.resolve() == bundle:
            return
        beside = bundle.parent == self._link.parent.resolve()
        draft = self._link.with_name(f".{self._link.name}-{os.getpid()}")
        try:
            draft.unlink(missing_ok=True)
            draft.symlink_to(bundle.name if beside else bundle)
            draft.replace(self._link)
        except OSError as error:  # As in a container that may only read bundles.
            tell(f"{self._link} stays as it is, which the next start will serve: {error.strerror}")
            return
        tell(f"{self._link} is {bundle.name} from here on")


def check_fits(old: Manifest, new: Manifest) -> None:
    """Raises `RolloutError` for a bundle that serves already, and for one that would read other things in
    stored histories and in what callers send."""
    if new.bundle_id == old.bundle_id:
        raise RolloutError(f"bundle {new.bundle_id} is the one that serves")
    for field in ("actions", "surfaces"):
        has, wants = getattr(new, field), getattr(old, field)
        if has != wants:
            raise RolloutError(
                f"{field} of bundle {new.bundle_id} are {', '.join(has)}; allowed: {', '.join(wants)}, as in "
                f"{old.bundle_id}, whose numbers stand in stored histories and requests; "
                "`unipinrec serve` takes any bundle"
            )


def _users(settings: ServingSettings, count: int) -> list[bytes]:
    try:
        store = open_histories(settings)
        if store is None:
            return []
        with closing(store):
            return list(store.first_users(count))
    except StoreError as error:
        raise RolloutError(str(error)) from error


def _told(server: EmbeddedServer, nodes: NodeSet) -> dict[str, Any]:
    pids = [pid for name in nodes.nodes for pid in server.node_processes(name)]
    # What processes share, as item vectors and slots, counts once.
    bytes_taken = 0
    for pid in pids:
        with suppress(psutil.Error):
            bytes_taken += psutil.Process(pid).memory_full_info().pss
    return {
        "bundle": nodes.bundle_id,
        "folder": str(nodes.bundle),
        "since": nodes.since.isoformat(timespec="seconds"),
        "ensembles": list(nodes.selection.ensembles),
        "memory_mib": round(bytes_taken / 2**20),
    }
