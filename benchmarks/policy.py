"""What a policy costs the requests beside which it computes: servers in turn, of which one has it.

Two of them have none. What these two differ by is not the policy's, so a difference that is no larger than
theirs tells nothing.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.unified.measures import MEDIANS
from benchmarks.unified.plan import Kind, StackLoad
from benchmarks.unified.stacks import UNIFIED, Comparison, FillError, comparing, rotated
from benchmarks.unified.traffic import COLD_USERS
from experiments.report import Machine
from export.bundle_writer import write_bundle
from loadtest.outcomes import OK
from loadtest.sender import Reply, connect
from loadtest.traffic import Visit
from unipinrec.arrays import Float64s
from unipinrec.bundle import POLICY, verify_bundle
from unipinrec.config import Config
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.bootstrap import RESAMPLES, Estimate, interval
from unipinrec.models.policy.card import Alphas, PolicyCard
from unipinrec.models.policy.config import PolicyConfig, PolicyTraining
from unipinrec.models.policy.module import ValueNetwork
from unipinrec.training.checkpoint import CheckpointState, fingerprint, save_checkpoint

SEED = 5
WITHOUT, AGAIN, WITH = "without", "without again", "with"
SERVERS = (WITHOUT, AGAIN, WITH)
WARM_USERS = 24
EVENTS = 64
"""Events of a policy's state, where the model's window has as many."""
WARM_UP = 30
"""Requests of each server that are not counted, of a kind of traffic."""


@dataclass(frozen=True, kw_only=True)
class PolicyPlan:
    """Sizes and durations."""

    out: Path
    sizes: str = "bench-cpu"
    """Preset of the model."""
    items: int = 20_000
    pairs: int = 400
    """Requests that each server gets, one at a time, of each kind of traffic."""
    concurrency: int = 16
    rounds: int = 5
    seconds: float = 8.0
    """Length of a window of load."""


class KindOfTraffic(Config):
    """The servers under one kind of traffic."""

    p50_ms: dict[str, float]
    """One request at a time, by server."""
    difference_ms: dict[str, Estimate]
    """Median of a server's time less that of the first, over pairs of the same request, with a 95 % bootstrap
    interval."""
    qps: dict[str, tuple[float, ...]]
    """Of each round, with `concurrency` requests in flight, by server."""
    qps_ratio: dict[str, Estimate]
    """Median over rounds of a server's rate over that of the first, and the extremes."""


class PolicyReport(Config):
    """What `unipinrec bench policy` found."""

    subject: str = "policy"
    machine: Machine
    preset: str
    items: int
    pairs: int
    concurrency: int
    rounds: int
    seconds: float
    traffic: dict[str, KindOfTraffic]
    decisions: dict[str, int]
    """Answers to lone requests of the server with a policy, by where their weights came from."""

    def table(self) -> Table:
        """Return the figures for a terminal."""
        table = Table("traffic", "policy", "p50", "difference", "QPS", "QPS over the first's")
        for kind, found in self.traffic.items():
            for name in SERVERS:
                qps = statistics.median(found.qps[name])
                row = [kind, name, f"{found.p50_ms[name]:.2f} ms", "", f"{qps:.1f}", ""]
                if name != WITHOUT:
                    added, ratio = found.difference_ms[name], found.qps_ratio[name]
                    row[3] = f"{added.mean:+.3f} ms ({added.low:+.3f} to {added.high:+.3f})"
                    row[5] = f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
                table.add_row(*row)
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
            latency_RS = np.array(list(_latencies(servers, kind, plan.pairs, sources)))[WARM_UP:]
            latency_ms = dict(zip(SERVERS, latency_RS.T, strict=True))
            rates = _rates(servers, kind, plan)
            traffic[str(kind)] = KindOfTraffic(
                p50_ms={name: float(np.median(took_R)) for name, took_R in latency_ms.items()},
                difference_ms={
                    name: median_of(latency_ms[name] - latency_ms[WITHOUT]) for name in (AGAIN, WITH)
                },
                qps=rates,
                qps_ratio={name: median_ratio(rates[name], rates[WITHOUT]) for name in (AGAIN, WITH)},
            )
    return PolicyReport(
        machine=Machine.here(),
        preset=plan.sizes,
        items=plan.items,
        pairs=plan.pairs - WARM_UP,
        concurrency=plan.concurrency,
        rounds=plan.rounds,
        seconds=plan.seconds,
        traffic=traffic,
        decisions=sources,
    )


def _latencies(
    servers: dict[str, Comparison], kind: Kind, pairs: int, sources: Counter[str]
) -> Iterator[list[float]]:
    """Yield the milliseconds that each server took for the same request, in turns who is first."""
    users = WARM_USERS if kind is Kind.WARM else COLD_USERS
    plans = {name: server.plan(stack_of(kind), kind, users) for name, server in servers.items()}
    senders = {name: connect(plan) for name, plan in plans.items()}
    traffic = {name: plan.open_traffic(0) for name, plan in plans.items()}

    def ask(name: str, visit: Visit) -> tuple[float, Reply]:
        prepared = senders[name].prepare(visit)
        began = time.perf_counter()
        reply = senders[name].send(prepared)
        took_ms = 1e3 * (time.perf_counter() - began)
        traffic[name].done(visit)
        if reply.status != OK:
            raise FillError(f"the server {name!r} answered a request with {reply.status}")
        return took_ms, reply

    for name in servers if kind is Kind.WARM else ():
        for visit in traffic[name].first_pass(users):
            ask(name, visit)
    for place in range(pairs):
        answers = {name: ask(name, traffic[name].next()) for name in rotated(SERVERS, place)}
        sources[answers[WITH][1].result.as_numpy("UTILITY_SOURCE")[0, 0].decode()] += 1
        yield [answers[name][0] for name in SERVERS]


def _rates(servers: dict[str, Comparison], kind: Kind, plan: PolicyPlan) -> dict[str, tuple[float, ...]]:
    """Return the requests a second that each server answered, by round."""
    for place in range(plan.rounds):
        for name in rotated(SERVERS, place):
            servers[name].run_window(stack_of(kind), plan.concurrency)
    rounds = {
        name: server.results[stack_of(kind)].closed[plan.concurrency] for name, server in servers.items()
    }
    return {name: tuple(map(MEDIANS["qps"], windows)) for name, windows in rounds.items()}


def stack_of(kind: Kind) -> str:
    """Return the name of a kind of traffic among those of `bench unified`."""
    return f"unified_{kind}"


def median_of(value_R: Float64s) -> Estimate:
    """Return the median with a 95 % bootstrap interval."""
    drawn_BR = np.random.default_rng(SEED).choice(value_R, (RESAMPLES, len(value_R)))
    return Estimate(float(np.median(value_R)), *interval(np.median(drawn_BR, axis=1)))


def median_ratio(rate_R: Sequence[float], first_R: Sequence[float]) -> Estimate:
    """Return the median of rates over others of the same rounds, and the extremes."""
    ratios = [rate / first for rate, first in zip(rate_R, first_R, strict=True)]
    return Estimate(statistics.median(ratios), min(ratios), max(ratios))


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
    state = CheckpointState(
        spec=POLICY, epoch=1, step=0, model=config, training=PolicyTraining(), dataset=dataset.info.sha256
    )
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint = save_checkpoint(base / "policy", state, weights, optimizer)
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
