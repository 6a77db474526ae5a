"""What a policy costs the requests beside which it computes: servers in turn, of which one has it.

Two of them have none. What these two differ by is not the policy's, so a difference that is no larger than
theirs tells nothing.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich.table import Table

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.turns import Side, TrafficCost, TurnsPlan, TurnsReport, ask_in_turns, run_in_turns
from benchmarks.unified.plan import Kind, StackLoad
from benchmarks.unified.stacks import UNIFIED, Comparison, comparing
from benchmarks.unified.traffic import COLD_USERS
from export.bundle_writer import write_bundle
from loadtest.sender import Reply
from unipinrec.bundle import POLICY, verify_bundle
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.card import Alphas, PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.module import ValueNetwork
from unipinrec.training.checkpoint import fingerprint, save_model

SEED = 5
WITHOUT, AGAIN, WITH = "without", "without again", "with"
WARM_USERS = 24
EVENTS = 64
"""Events of a policy's state, where the model's window has as many."""
WARM_UP = 30
"""Requests of each server that are not counted, of a kind of traffic."""


@dataclass(frozen=True, kw_only=True)
class PolicyPlan(TurnsPlan):
    """Sizes and durations; the first requests of the pairs are not counted."""

    pairs: int = 400
    concurrency: int = 16
    rounds: int = 5
    seconds: float = 8.0


class PolicyReport(TurnsReport):
    """What `unipinrec bench policy` found."""

    subject: str = "policy"
    traffic: dict[str, TrafficCost]
    decisions: dict[str, int]
    """Answers to lone requests of the server with a policy, by where their weights came from."""

    def table(self) -> Table:
        """Return the figures for a terminal."""
        table = Table("traffic", "policy", "p50", "difference", "QPS", "QPS over the first's")
        for kind, found in self.traffic.items():
            found.add_rows(table, kind)
        return table


def measure_policy(plan: PolicyPlan, tell: Callable[[str], None]) -> PolicyReport:
    """Return the cost of a policy in latency of lone requests and in requests a second.

    Raises `ServerError` if a server does not start, and `FillError` if a request fails.
    """
    tell(f"bundle of {plan.items:,} items with random weights")
    made = make_random_bundle(plan.items, plan.out / "bundles", lambda _: None, sizes=plan.sizes)
    bundles = {WITHOUT: made, AGAIN: made, WITH: _with_policy(made)}
    load = StackLoad(seconds=plan.seconds, seed=SEED, concurrencies=(plan.concurrency,))
    models = {stack_of(kind): UNIFIED for kind in (Kind.COLD, Kind.WARM)}
    sources = Counter[str]()
    traffic = {}
    with ExitStack() as stack:
        servers = {}
        for name, bundle in bundles.items():
            tell(f"starting a server: {name}")
            log = plan.out / name.replace(" ", "-") / "server.log"
            settings = load.settings(bundle.folder).model_copy(update={"explore_share": 0.0})
            servers[name] = stack.enter_context(comparing(bundle, settings, models, load, log, tell))
        for kind in (Kind.COLD, Kind.WARM):
            tell(f"{plan.pairs} requests to each server, {kind}")
            sides = {name: _side(server, kind, plan.concurrency) for name, server in servers.items()}
            turns = list(ask_in_turns(sides, plan.pairs))
            sources.update(_weights_source(turn[WITH].reply) for turn in turns)
            traffic[str(kind)] = TrafficCost.of(turns[WARM_UP:], run_in_turns(sides, plan.rounds))
    return PolicyReport.of(plan, pairs=plan.pairs - WARM_UP, traffic=traffic, decisions=sources)


def _side(server: Comparison, kind: Kind, concurrency: int) -> Side:
    """Return one server under a kind of traffic; its returning users have come once."""
    users = WARM_USERS if kind is Kind.WARM else COLD_USERS
    plan = server.plan(stack_of(kind), kind, users)
    side = Side(plan, plan.open_traffic(0), partial(server.run_window, stack_of(kind), concurrency))
    if kind is Kind.WARM:
        side.fill(users)
    return side


def _weights_source(reply: Reply) -> str:
    source: str = reply.result.as_numpy("UTILITY_SOURCE")[0, 0].decode()
    return source


def stack_of(kind: Kind) -> str:
    """Return the name of a kind of traffic among those of `bench unified`."""
    return f"unified_{kind}"


def _with_policy(made: RandomBundle) -> RandomBundle:
    """Return the bundle with a policy of random weights beside its model."""
    base = made.folder.parents[1]
    dataset = InteractionDataset.load(base / "data")
    actions = dataset.info.actions
    first, second = (WeightRange(action=action, low=0.5, high=8) for action in actions[1:3])
    arms = Arms(actions=actions, production=dataset.info.utility_weights, varied=(first, second))
    served = made.manifest.model
    longest = served.max_history - served.window_block + 1
    config = PolicyConfig(**dataset.catalogue_fields, arms=arms, max_history=min(EVENTS, longest))
    torch.manual_seed(SEED)
    model = ValueNetwork(config)
    checkpoint = save_model(base / "policy", POLICY, config, model, dataset.info.sha256)
    card = PolicyCard(
        fingerprint=fingerprint(checkpoint),
        synthetic=True,
        arms=arms,
        rewards=(actions[1], actions[2]),
        cohorts=config.cohort_names,
        chosen=Alphas(default=0.5),
    )
    card_file = base / "policy" / "policy-card.json"
    card_file.write_text(card.model_dump_json())
    folder = write_bundle(
        made.checkpoint,
        dataset,
        base / "bundles-with-policy",
        beside=[checkpoint],
        policy_card=card_file,
        report=lambda _: None,
    )
    return replace(made, folder=folder, manifest=verify_bundle(folder))
