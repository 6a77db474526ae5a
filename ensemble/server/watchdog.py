"""Keeps every node alive: Triton 2.51 never revives one whose process has died."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Self

import psutil
import tritonclient.grpc as triton

from ensemble.server.backoff import Backoff
from ensemble.server.embedded_server import Canary, EmbeddedServer, failure_of
from ensemble.server.fatal_signal import handles_fatal_signal
from ensemble.server.health import SERVER, Health
from ensemble.server.node_process import STOPPED_S, Fate, NodeProcess
from ensemble.server.readiness import set_ready
from ensemble.server.replacement import Fates, Replacement

DEAD_NODE = re.compile(r"Stub process '(?P<instance>[^']+)' is not healthy")
TIMED_OUT = "Deadline Exceeded"
SILENT_ROUNDS = 2
"""After so many rounds, a node that canaries find useless is replaced, and what they say is an outage."""
SILENT_S = 20.0
"""After so long without an answer to anybody, the server itself is taken for hung."""
DIES_S = 3.0
"""For which a program may print one line of the stack of a server that dies."""
HANG_S = 5.0
"""For which a node may be at one batch without computing, beside what it may wait for a policy."""
ADMIN_TIMEOUT_S = 10.0
POLL_S = 0.2
DISCOVERY_S = 1.0
"""Between two looks for processes that are new."""

CANARIES = "canaries"
"""What an outage is named by of which only canaries tell."""


class Watchdog:
    """Threads that look at the processes of all nodes and run canaries, and start anew what is of no use.

    A process that died, is stopped or hangs is found within seconds, whichever instance it is and whatever
    the load. Canaries are the outer proof: they find a node that lives and answers nobody, a model that is
    not loaded, and a server that hangs, which is killed for its launcher to start again. Canaries that fail
    as under overload, while requests are answered, are reported and replace nothing.

    Triton 2.51 never revives a dead node by itself, and takes loading a loaded model for done. Given a
    configuration whose instance groups differ, it starts the groups that are new and ends those that are
    gone; the others keep their processes. So a dead instance that is a group of its own is first taken away,
    lest it be given more requests to fail, and then a new one is added.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        canaries: Iterable[Canary],
        *,
        beside: Mapping[str, Canary] | None = None,
        report: Callable[[str], None],
        health: Health | None = None,
        interval_s: float = 2.0,
    ) -> None:
        """Each round goes through `canaries` anew, and through `beside`, canaries of nodes that no request
        waits for, by model: one that is silent is replaced. `report` gets a line for each finding;
        `interval_s` is in seconds between rounds of canaries."""
        self._server = server
        self._canaries = canaries
        self._beside = beside or {}
        self._report = report
        self._health = health or Health()
        self._interval_s = interval_s
        self._hang_s = HANG_S + server.settings.policy_budget_ms / 1e3
        self._known: dict[int, NodeProcess] = {}
        self._discovered = -DISCOVERY_S
        self._stopped_since: float | None = None
        self._strangers: dict[int, float] = {}
        self._lock = threading.Lock()
        self._replacing: dict[str, Replacement] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._failures = 0
        self._silent: dict[str, int] = {}
        self._useless: dict[str, int] = {}
        self._answers = -1
        self._answered = time.monotonic()
        self._shown_ready = True
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=name, args=(step, pause_s), daemon=True)
            for name, step, pause_s in (
                ("watchdog", self._look, POLL_S),
                ("canaries", self._round, interval_s),
                ("readiness", self._show_readiness, POLL_S),
            )
        ]

    def __enter__(self) -> Self:
        self._discover()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # What is under way ends with the server, which is stopped next, so it is not waited for.
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _run(self, step: Callable[[triton.InferenceServerClient], None], pause_s: float) -> None:
        with self._server.client() as client:
            while not self._ended.wait(pause_s):
                try:
                    step(client)
                except Exception as error:  # The thread must outlive whatever a step meets.
                    # Of a server that has died the launcher tells, and stops this thread.
                    if not self._ended.wait(1.0):
                        self._tell(str(error))

    def _look(self, client: triton.InferenceServerClient) -> None:
        """Look at every process once."""
        now = time.monotonic()
        self._look_at_server(now)
        if now - self._discovered >= DISCOVERY_S:
            self._discovered = now
            self._discover()
        lost: dict[int, tuple[NodeProcess, Fate]] = {}
        for pid, node in list(self._known.items()):
            if node.model in self._replacing:
                continue
            fate = node.fate(now, self._server.runtime_dir_of(node.model), self._hang_s)
            if fate is not None:
                self._known.pop(pid, None)
                lost[pid] = node, fate
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if lost:
            self._replace_lost(client, lost)

    def _replace_lost(
        self, client: triton.InferenceServerClient, lost: Mapping[int, tuple[NodeProcess, Fate]]
    ) -> None:
        """Replace instances whose process is lost, but for those that end by right: of a model that is
        unloaded, or that another process has followed."""
        followed = {node.instance for node in self._server.processes() if node.pid not in lost}
        found: dict[str, Fates] = {}
        for node, fate in lost.values():
            if node.model in self._server.models and node.instance not in followed:
                found.setdefault(node.model, {})[node.instance] = fate
        for model, fates in found.items():
            if client.is_model_ready(model, client_timeout=ADMIN_TIMEOUT_S):
                self._replace(model, fates)

    def _discover(self) -> None:
        now, children = time.monotonic(), self._server.children()
        nodes = [node for child in children if (node := NodeProcess.of(child)) is not None]
        for node in nodes:
            self._known.setdefault(node.pid, node)
        for model, replacement in list(self._replacing.items()):
            if replacement.waits_in_vain(nodes, now):
                self._end_server(f"waits in vain for a process of {model}")
        # Of a server that dies of a signal, other programs print the stack, each of them in a moment.
        strangers = {child.pid for child in children} - {node.pid for node in nodes}
        self._strangers = {pid: self._strangers.get(pid, now) for pid in strangers}
        stayed_s = now - min(self._strangers.values(), default=now)
        # It has hundreds of threads to look at.
        if stayed_s >= DIES_S and handles_fatal_signal(self._server.pid):
            self._end_server("takes too long to die of a signal")

    def _look_at_server(self, now: float) -> None:
        if psutil.Process(self._server.pid).status() != psutil.STATUS_STOPPED:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since >= STOPPED_S:
            self._end_server("was stopped")

    def _end_server(self, reason: str) -> None:
        self._health.begin(SERVER, reason)
        self._tell(f"the server {reason}; it is killed")
        self._server.kill()
        self._ended.set()

    def _show_readiness(self, client: triton.InferenceServerClient) -> None:
        ready = self._health.is_ready
        if ready != self._shown_ready:
            set_ready(self._server, client, ready=ready)
            self._shown_ready = ready

    def _replace(self, model: str, fates: Fates) -> None:
        """Start instances of a model anew, in a thread of its own: others may need the same meanwhile."""
        with self._lock:
            if model in self._replacing or self._ended.is_set():
                return
            self._replacing[model] = Replacement(self._server, model, fates)
        threading.Thread(target=self._keep_replacing, args=(model, fates), name=model, daemon=True).start()

    def _keep_replacing(self, model: str, fates: Fates) -> None:
        began = time.monotonic()
        backoff = self._backoffs.setdefault(model, Backoff())
        bundle, stands_by = self._server.bundle_of(model), self._server.stands_by(model)
        # Nobody misses what stands by.
        missed = {} if stands_by else fates
        for instance, fate in missed.items():
            self._health.begin(instance, fate.value, model=model)
        what = ", ".join(f"{instance} {fate.value}" for instance, fate in fates.items())
        while not self._ended.wait(backoff.pause_s(time.monotonic())):
            try:
                with self._server.changing:
                    is_held = self._server.bundle_of(model) == bundle
                    if is_held:
                        self._replacing[model].attempt(self._ended)
            except Exception as error:
                self._health.started(model, well=False)
                self._tell(f"{what}; it cannot be loaded again: {error}")
                continue
            backoff.serves(time.monotonic())
            self._health.started(model, well=is_held)
            break
        if not self._ended.is_set():
            for instance in missed:
                self._health.end(instance, model=model)
            self._tell(f"{what}; loaded again in {time.monotonic() - began:.1f} s")
        # Others of the model may have died meanwhile: they stay known, and are looked at from here on.
        self._discovered = -DISCOVERY_S
        del self._replacing[model]

    def _round(self, client: triton.InferenceServerClient) -> None:
        failures = [failure for canary in self._canaries if (failure := failure_of(canary, client))]
        beside = {model: failure_of(canary, client) or "" for model, canary in self._beside.items()}
        failures += filter(None, beside.values())
        for _ in failures:
            self._health.canary_failed()
        self._judge_server(client, failures)
        silent = [model for model, failure in beside.items() if TIMED_OUT in failure]
        self._silent = _counted(self._silent, silent)
        self._useless = _counted(self._useless, useless_instances(failures))
        if not failures:
            if self._failures > 1:
                self._tell("canaries are answered again")
                self._health.end(CANARIES)
            self._failures = 0
            return
        self._failures += 1
        if self._replacing:
            return
        self._replace_useless()
        if self._failures >= SILENT_ROUNDS:
            self._load_missing(client)
        if self._failures == SILENT_ROUNDS:
            self._tell(f"canary failed {self._failures} times: {failures[0]}")
            self._health.begin(CANARIES, "failed", failures[0])

    def _replace_useless(self) -> None:
        """Replace nodes that live and of which canaries say, round after round, that they answer nobody; and
        at once those that had died before anybody looked at them."""
        found: dict[str, Fates] = {}
        nodes = self._server.processes()
        living = {node.instance for node in nodes}
        for instance, rounds in self._useless.items():
            model = owner_of(instance, self._server.models)
            if model is not None and instance not in living:
                found.setdefault(model, {})[instance] = Fate.DIED
            elif model is not None and rounds >= SILENT_ROUNDS:
                found.setdefault(model, {})[instance] = Fate.UNHEALTHY
        for node in nodes:
            if self._silent.get(node.model, 0) >= SILENT_ROUNDS:
                found.setdefault(node.model, {})[node.instance] = Fate.HUNG
        for model, fates in found.items():
            self._replace(model, fates)

    def _load_missing(self, client: triton.InferenceServerClient) -> None:
        headers = self._server.admin_headers
        index = client.get_model_repository_index(headers=headers, client_timeout=ADMIN_TIMEOUT_S).models
        state = {model.name: model.state for model in index}
        missing = [model for model in self._server.models if state.get(model) != "READY"]
        if any(state.get(model) in ("LOADING", "UNLOADING") for model in missing):
            return
        # Triton loads ensembles again as soon as their nodes are there.
        nodes = [model for model in missing if model not in self._server.ensembles]
        for model in nodes or missing:
            self._replace(model, {model: Fate.MISSING})

    def _judge_server(self, client: triton.InferenceServerClient, failures: Sequence[str]) -> None:
        """End a server that answers nobody, while nothing is known that would explain it."""
        now = time.monotonic()
        hears_nothing = [failure for failure in failures if TIMED_OUT in failure]
        answers = self._answers
        with suppress(triton.InferenceServerException):
            answers = answered_requests(client, self._server)
        if answers != self._answers or not hears_nothing or self._replacing:
            self._answers, self._answered = answers, now
        elif now - self._answered >= SILENT_S:
            self._end_server(f"has answered nothing for {SILENT_S:g} s")

    def _tell(self, line: str) -> None:
        if not self._ended.is_set():
            self._report(f"watchdog: {line}")


def answered_requests(client: triton.InferenceServerClient, server: EmbeddedServer) -> int:
    """Return how many requests of ensembles have been answered since the server's start."""
    asked = {"headers": server.admin_headers, "client_timeout": ADMIN_TIMEOUT_S}
    found = client.get_inference_statistics(**asked).model_stats
    return sum(int(model.inference_stats.success.count) for model in found if model.name in server.ensembles)


def useless_instances(failures: Iterable[str]) -> list[str]:
    """Return the instances that the failures name as having a process that Triton does not reach."""
    return sorted({match["instance"] for failure in failures for match in DEAD_NODE.finditer(failure)})


def owner_of(instance: str, models: Iterable[str]) -> str | None:
    """Return the model of an instance, which is named as `ranking_0_1`: the longest name that starts it."""
    return max((model for model in models if instance.startswith(f"{model}_")), key=len, default=None)


def _counted(before: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    return {name: before.get(name, 0) + 1 for name in names}
