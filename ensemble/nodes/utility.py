"""What an action is worth in one request: the caller says, an exploration, a policy, or else the bundle.

Shapes: A actions, K arms.
"""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from ensemble.arrays import Floats
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import REQUEST_ID, Arrays
from ensemble.nodes.metrics import STAGE_SECONDS, with_series
from ensemble.policy.alphas import AlphaBook
from ensemble.policy.decision_table import Decision, DecisionTable
from ensemble.policy.exploring import explored_arm
from ensemble.policy.request_channel import BUSY, DEAD, NO_POLICY, Ticket
from ensemble.settings import ServingSettings

Source = Literal["given", "explored", "chosen", "default"]
"""Who says: the request, a random draw, the policy, or the bundle's static weights."""

Fallback = Literal["late", "dead", "busy", "failed", "invalid", "withheld"]
"""Why static weights stand in for a policy's: its decision did not come in time, its process is not there, it
has too many requests, it raised, it said what is no decision, or its card sets no operating point."""

POLL_S = 0.0001
HOPELESS_NS = 1_000_000_000
"""For which nobody waits for a policy after one decision was late: it may be slow for all."""


@dataclass(frozen=True, slots=True)
class WeightRequest:
    """What scoring knows of one user's weights."""

    given_A: Floats | None
    ticket: Ticket
    request_id: bytes
    place: int
    """Of the user in the request."""

    @classmethod
    def of(cls, arrays: Arrays, user: int, ticket: Ticket) -> "WeightRequest":
        """Return what the tensors of a request say of one of its users."""
        return cls(
            arrays["UTILITY_WEIGHTS"][user] if "UTILITY_WEIGHTS" in arrays else None,
            ticket,
            arrays[REQUEST_ID][user, 0] if REQUEST_ID in arrays else b"",
            user,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The weights of one answer, and whose they are."""

    weight_A: Floats
    source: Source
    told: dict[str, Any] = field(default_factory=dict)
    """What the answer says of an exploration, a policy, or why it had none."""

    def to_json(self) -> bytes:
        """Return what is told, as `POLICY_DECISION` has it."""
        return json.dumps(self.told, separators=(",", ":")).encode()


class UtilityChooser:
    """Finds the weights of each request, whatever befalls the policy."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, metrics: CollectorRegistry) -> None:
        self._default_A = np.array(loaded.manifest.defaults.utility_weights, np.float32)
        self._budget_ns = settings.policy_budget_ms * 1_000_000
        self._explore_share, self._explore_seed = settings.explore_share, settings.explore_seed
        self._table: DecisionTable | None = None
        policy = loaded.policy()
        if policy is not None:
            self._config, self._card = policy
            self._weight_KA = self._card.arms.weights().astype(np.float32)
            self._table = DecisionTable(settings.runtime_dir, loaded.id)
            # Only told of here: the policy's own process exports no metrics.
            metrics.register(AlphaBook(settings.policy_alphas, self._card))
        self._hopeless_until_ns = 0
        text = "Users by where the utility weights came from"
        sources = Counter("unipinrec_utility_source", text, ["source"], registry=metrics)
        self._sources = with_series(sources, get_args(Source))
        text = "Users who got static weights in place of the policy's, by why"
        fallbacks = Counter("unipinrec_policy_fallbacks", text, ["reason"], registry=metrics)
        self._fallbacks = with_series(fallbacks, get_args(Fallback))
        cohorts = self._config.cohort_names if policy else ()
        text = "Decisions of the policy that were used"
        decisions = Counter("unipinrec_policy_decisions", text, ["cohort"], registry=metrics)
        self._decisions = with_series(decisions, cohorts)
        text = "Time from when a decision was asked for until it was there"
        self._seconds = Histogram("unipinrec_policy_seconds", text, buckets=STAGE_SECONDS, registry=metrics)

    def choose(self, request: WeightRequest) -> Choice:
        """Return the weights of one user's answer; the first of given, explored, chosen, default there is."""
        choice = self._choice(request)
        self._sources.labels(choice.source).inc()
        if "fallback" in choice.told:
            self._fallbacks.labels(choice.told["fallback"]).inc()
        return choice

    def _choice(self, request: WeightRequest) -> Choice:
        if request.given_A is not None:
            return Choice(request.given_A, "given")
        if self._table is None:
            return Choice(self._default_A, "default")
        arms = len(self._weight_KA)
        share, seed = self._explore_share, self._explore_seed
        arm = explored_arm(request.request_id, request.place, share=share, seed=seed, arms=arms)
        if arm is not None:
            told = {"arm": arm, "propensity": 1 / arms, "explored": True}
            return Choice(self._weight_KA[arm], "explored", told)
        if request.ticket.number == NO_POLICY:
            return Choice(self._default_A, "default")
        found = self._find(self._table, request.ticket)
        if isinstance(found, Decision):
            return self._chosen(found)
        return Choice(self._default_A, "default", {"fallback": found})

    def _find(self, table: DecisionTable, ticket: Ticket) -> Decision | Fallback:
        if ticket.number in (DEAD, BUSY):
            return "dead" if ticket.number == DEAD else "busy"
        decision = table.find(ticket.number) or self._wait(table, ticket)
        if decision is None:
            return "late"
        if decision.outcome != "decided":
            return decision.outcome
        known = decision.arm < len(self._weight_KA) and decision.cohort < len(self._config.cohort_names)
        return decision if known else "invalid"

    def _wait(self, table: DecisionTable, ticket: Ticket) -> Decision | None:
        now_ns, until_ns = time.monotonic_ns(), ticket.asked_ns + self._budget_ns
        # What no node of this graph asked for just before is not waited for.
        if not ticket.asked_ns <= now_ns < until_ns or now_ns < self._hopeless_until_ns:
            return None
        while time.monotonic_ns() < until_ns:
            time.sleep(POLL_S)
            if decision := table.find(ticket.number):
                return decision
        self._hopeless_until_ns = time.monotonic_ns() + HOPELESS_NS
        return None

    def _chosen(self, decision: Decision) -> Choice:
        cohort = self._config.cohort_names[decision.cohort]
        self._decisions.labels(cohort).inc()
        self._seconds.observe(decision.took_us / 1e6)
        told = {
            "policy": self._card.fingerprint[:12],
            "arm": decision.arm,
            "alpha": decision.alpha,
            "cohort": cohort,
            "revision": decision.revision,
        }
        return Choice(self._weight_KA[decision.arm], "chosen", told)
