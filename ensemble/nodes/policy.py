"""The `policy` node: decides in the background which utility weights each request gets.

`history` asks by datagram, `scoring` finds the decision in a table, and no request waits for this node as for
a step: it may be slow, wrong or dead. What reaches it through Triton are questions about itself.

Shapes: B requests, K arms.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import ADMIN_KEY, COMMAND, Arrays, InvalidInputError
from ensemble.policy.alphas import AlphaBook, CommandError
from ensemble.policy.control import PolicyControl
from ensemble.policy.decision_table import Decision, DecisionTable
from ensemble.policy.request_channel import PolicyRequest, Question, RequestReceiver, RequestSender
from ensemble.policy.value_graph import ValueGraph
from ensemble.settings import ServingSettings
from unipinrec.data.history import History

log = logging.getLogger(__name__)

POLL_S = 0.2
OLDEST_S = 5.0
"""What has waited longer is not computed: its request was answered or has failed."""
CHECK_S = 1.0
"""In which the node must decide about a request of its own to call itself healthy."""


class PolicyNode:
    """Answers requests of the channel in a thread, and questions about the policy."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        # Scoring counts decisions. Triton 2.51 can fail when a process dies that hands counters over, and
        # this one may die without harm.
        self.metrics = CollectorRegistry()
        self._control: PolicyControl | None = None
        found = loaded.policy()
        if found is None:
            return
        self._config, self._card = found
        self._graph = self.make_graph(loaded)
        self._alphas = AlphaBook(settings.policy_alphas, self._card)
        self._control = PolicyControl(self._card, self._alphas, settings.admin_key)
        self._table = DecisionTable(settings.runtime_dir, loaded.id)
        self._receiver = RequestReceiver(settings.runtime_dir)
        self._sender = RequestSender(settings.runtime_dir)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="policy", daemon=True)
        self._thread.start()

    def make_graph(self, loaded: LoadedBundle) -> ValueGraph:
        """Return what computes the values."""
        return ValueGraph(loaded, self._config, self._card)

    def parse(self, arrays: Arrays) -> list[tuple[bytes, str | None]]:
        """Return the command of a request and the key that came with it."""
        key = arrays[ADMIN_KEY].ravel()[0].decode() if ADMIN_KEY in arrays else None
        return [(command, key) for command in arrays[COMMAND].ravel()]

    def run(self, rows: Sequence[tuple[bytes, str | None]]) -> list[dict[str, Any]]:
        """Return what each command is answered with, after a decision of its own has come.

        Raises `InvalidInputError` for a command that is not allowed, and `RuntimeError` if none came.
        """
        if self._control is None:
            raise InvalidInputError(
                "COMMAND is for a policy; the bundle has none: `unipinrec export` adds it"
            )
        self._check()
        try:
            return [self._control.answer(command, key) for command, key in rows]
        except CommandError as error:
            raise InvalidInputError(str(error)) from error

    def pack(self, rows: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
        """Return the output tensor for one request."""
        return {"STATUS": np.array([json.dumps(row).encode() for row in rows], np.object_)}

    def close(self) -> None:
        """Stop deciding."""
        if self._control is None:
            return
        self._stopped.set()
        self._thread.join()
        self._receiver.close()
        self._sender.close()
        self._alphas.close()

    def _check(self) -> None:
        nobody = np.empty(0, np.int64)
        history = History(item_row_N=nobody, actions_N=nobody, timestamp_N=nobody, surface_N=nobody)
        (ticket,) = self._sender.ask([Question(history, int(time.time()), 0)])
        until = time.monotonic() + CHECK_S
        while (decision := self._table.find(ticket.number)) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"no decision in {CHECK_S:g} s")
            time.sleep(0.001)
        if decision.outcome in ("failed", "invalid"):
            raise RuntimeError(f"the policy's decision {decision.outcome}")

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                requests = self._receiver.receive(POLL_S)
                oldest_ns = time.monotonic_ns() - round(OLDEST_S * 1e9)
                waiting = [request for request in requests if request.ticket.asked_ns >= oldest_ns]
                if waiting:
                    self._answer(waiting)
            except (
                Exception
            ):  # Requests are answered without a policy too, and the next may be answered with.
                log.exception("a policy's requests were not read")
                self._stopped.wait(POLL_S)

    def _answer(self, requests: Sequence[PolicyRequest]) -> None:
        try:
            decisions = self._decide(requests)
        except Exception:
            log.exception("a policy's decisions failed")
            decisions = [Decision("failed")] * len(requests)
        now_ns = time.monotonic_ns()
        for request, decision in zip(requests, decisions, strict=True):
            took_us = (now_ns - request.ticket.asked_ns) // 1_000
            self._table.put(request.ticket.number, replace(decision, took_us=took_us))

    def _decide(self, requests: Sequence[PolicyRequest]) -> list[Decision]:
        """Return the arm of each request: the one with the highest value, of equal ones the first."""
        revision = self._alphas.current()
        if revision.alphas is None:
            return [Decision("withheld")] * len(requests)
        alpha_of = revision.alphas.of
        questions = [request.question for request in requests]
        cohort_B = self._graph.cohorts(questions)
        alpha_B = np.array([alpha_of(self._config.cohort_names[cohort]) for cohort in cohort_B])
        value_BK2 = self._graph.values(questions)
        worth_BK = alpha_B[:, None] * value_BK2[..., 1] + (1 - alpha_B[:, None]) * value_BK2[..., 0]
        valid_B = np.isfinite(worth_BK).all(axis=1)
        return [
            Decision("decided", int(arm), float(alpha), cohort, revision.number)
            if valid
            else Decision("invalid")
            for arm, alpha, cohort, valid in zip(
                worth_BK.argmax(axis=1), alpha_B, cohort_B, valid_B, strict=True
            )
        ]
