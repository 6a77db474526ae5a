"""What hundreds of millions of users would cost: formulas over committed measurements and assumptions.

Each formula is text in SQL's arithmetic, which polars computes: what a page states is what was computed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from ensemble.settings import ROOT, ServingSettings
from ensemble.stores.event_chunks import CHUNK_EVENTS

RESULTS = Path("benchmarks", "results")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A table of a page, from its name on."""
HOSTS = ("compute_hosts", "second_ranker_hosts", "slot_hosts", "store_hosts", "index_hosts")
"""What the picture shows."""


class PlanError(ValueError):
    """A report lacks what the plan reads, or a page the tables that it makes; one line."""


@dataclass(frozen=True, slots=True)
class Given:
    """A number that formulas start from."""

    name: str
    what: str
    source: str
    """Of a measured one, the report and the steps to the field; of others, where the number comes from."""
    value: float | None = None
    """Of a measured one, None: it is read."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A number that follows."""

    name: str
    what: str
    text: str
    replacement: str = ""
    """What takes the place of the part that holds until then."""


ASSUMED = (
    Given("users", "users", "the goal", 500e6),
    Given("items", "items of the catalogue", "the goal", 1e9),
    Given("requests", "requests a second, at the peak", "the goal", 100e3),
    Given("pause_s", "seconds between two requests of a user who is there", "a guess", 30),
    Given(
        "visit", "requests of a visit; the first one encodes the history, others continue it", "a guess", 20
    ),
    Given("stored", "events that are kept of a user, on average", "a guess", 1000),
    Given("fresh", "events that follow a request and are appended", "a guess", 5),
    Given("changed", "share of items that are new or changed in a day", "a guess", 0.01),
    Given("busy", "share of capacity that is used at the peak", "the rule of operations.md", 0.7),
    Given("copies", "copies of stored histories", "a guess", 3),
    Given("host_cores", "cores of a host", "a choice", 64),
    Given("host_gb", "memory of a host, GB", "a choice", 512),
    Given("disk_gb", "disk of a host, GB", "a choice", 4000),
)
ASSUMED_OF_GPUS = (
    Given("gpu_rate", "requests a second of a GPU", "**never measured**", 2000),
    Given("gpu_gb", "memory of a GPU that slots may take, GB", "**never measured**", 60),
)
MEASURED = (
    Given("cores", "cores of the machine that was measured", "bench/report.json > machine > cores"),
    *(
        Given(
            f"{name}_rate",
            f"{told} answered a second on it",
            f"bench/report.json > rows > stack={stack} > {row}",
        )
        for name, told, stack in (
            ("cold", "first requests of users", "unified_cold"),
            ("warm", "requests of users who are there", "unified_warm"),
            ("cold_apart", "first requests, by two models that share nothing,", "separate_cold"),
            ("warm_apart", "requests of users who are there, by the same,", "separate_warm"),
        )
        for row in ("arrival=closed > concurrency=64 > qps",)
    ),
    Given(
        "warm_found",
        "share of requests of users who are there that found the user's history in a slot",
        "bench/report.json > rows > stack=unified_warm > arrival=closed > concurrency=64 > hit_share",
    ),
    Given(
        "one_ranker_rate",
        "warm requests a second with one ranker, in the same run as the next",
        "second-ranker/serving.json > traffic > warm > qps > recommend",
    ),
    Given(
        "two_rankers_rate",
        "warm requests a second with a second ranker behind",
        "second-ranker/serving.json > traffic > warm > qps > recommend_full",
    ),
    Given(
        "slot_mib",
        "keys and values of 512 events, MiB",
        "bench/growth.json > sweeps > events of a history > value=512 > measured > slot, MiB",
    ),
    *(
        Given(
            f"{name}_slot",
            f"the same of a smaller model in {name}, bytes",
            f"bench/options.json > sweeps > keys and values kept in > value={name} > measured > slot, bytes",
        )
        for name in ("float32", "bfloat16", "int8")
    ),
    *(
        Given(
            f"{kind}_bytes",
            f"index `{kind}` of a million vectors of width 128, bytes",
            f"bench/ann.json > measured > kind={kind} > items=1000000 > index_bytes",
        )
        for kind in ("hnsw", "sq8")
    ),
    *(
        Given(
            f"build_{name}_s",
            f"building `hnsw` of {told} on one thread, seconds",
            f"bench/ann.json > measured > kind=hnsw > items={items} > build_seconds",
        )
        for name, told, items in (("100k", "100,000 items", 100_000), ("1m", "a million", 1_000_000))
    ),
    Given(
        "vectors_mib",
        "vectors of 100,000 items that ranking reads, MiB",
        "bench/growth.json > sweeps > items of the catalogue > value=100000 > measured > vectors, MiB",
    ),
    *(
        Given(name, told, f"bench/report.json > stages > stack=unified_cold > concurrency=1 > {field}")
        for name, told, field in (
            ("alone_ms", "a first request that is alone, ms", "total_ms"),
            ("search_ms", "search in 100,000 items within it, ms", "nodes > node=ann > compute_ms"),
        )
    ),
    Given(
        "taken_out_s",
        "seconds until a killed replica of three got no requests",
        "scale.json > seconds_until_taken_out",
    ),
    Given("actions", "actions that ranking tells the probability of", "bench/report.json > shape > actions"),
    Given(
        "appended",
        "events a second that one store takes, in requests of 100",
        "bench/appends.json > sweeps > events of a request > value=100 > measured > events, 1/s",
    ),
)
COSTS = (
    Formula("cold_s", "core seconds of a first request", "cores / cold_rate"),
    Formula("warm_s", "of a later one", "cores / warm_rate"),
    Formula("request_s", "of a request, on average", "cold_s / visit + warm_s * (1 - 1 / visit)"),
    Formula("compute_cores", "cores for all requests", "requests * request_s / busy"),
    Formula("compute_hosts", "hosts for them", "compute_cores / host_cores"),
    Formula(
        "apart_hosts",
        "hosts for the same by two models that share nothing",
        "requests * cores / busy / host_cores"
        " * (1 / visit / cold_apart_rate + (1 - 1 / visit) / warm_apart_rate)",
    ),
    Formula(
        "second_ranker_hosts",
        "further hosts, if every answer goes through a second ranker",
        "requests * cores * (1 / two_rankers_rate - 1 / one_ranker_rate) / busy / host_cores",
    ),
    Formula("there", "users who are there at once: each should keep a slot", "requests * pause_s"),
    Formula("slot_tb", "slots for them, TB", "there * slot_mib * 1048576 / 1e12"),
    Formula("slot_hosts", "hosts whose memory they fill", "slot_tb * 1000 / host_gb"),
    Formula("int8_slot_tb", "the same in int8, TB", "slot_tb * int8_slot / float32_slot"),
    Formula("all_slots_pb", "slots for all users, PB", "users * slot_mib * 1048576 / 1e15"),
    Formula("stored_tb", "stored histories, one copy, TB", "users * CEIL(stored / chunk) * page / 1e12"),
    Formula("store_hosts", "hosts whose disks all copies fill", "stored_tb * 1000 * copies / disk_gb"),
    Formula("appends", "events a second to append", "requests * fresh"),
    Formula("append_stores", "stores that take them, of any number of hosts", "appends / appended / busy"),
    Formula("index_gb", "index `hnsw`, GB for each host that searches it", "items * hnsw_bytes / 1e6 / 1e9"),
    Formula(
        "sq8_gb",
        "the same as `sq8`, which reads all of it for each query, GB",
        "items * sq8_bytes / 1e6 / 1e9",
    ),
    Formula("vectors_gb", "vectors for ranking, GB a host", "items * vectors_mib * 1048576 / 1e5 / 1e9"),
    Formula("rates_gb", "base rates, GB for each ranking process", "items * actions * rate_bytes / 1e9"),
    Formula(
        "index_hosts",
        "hosts whose memory one copy of index, vectors and rates fills",
        "(index_gb + vectors_gb + rates_gb) / host_gb",
    ),
    Formula(
        "build_power",
        "power of the items that the time of a build grows by, from 100,000 to a million",
        "LOG10(build_1m_s / build_100k_s)",
    ),
    Formula(
        "build_days",
        "days of one thread that `hnsw` takes, if it goes on so",
        "build_1m_s * POW(items / 1e6, build_power) / 86400",
    ),
)
LIMITS = (
    Formula(
        "proxy_share",
        "requests: one proxy's replicas, of as many cores as were measured",
        "proxy_replicas * cores / request_s * busy / requests",
        "larger servers; cells: many small fleets with proxies of their own, behind a hash of the user",
    ),
    Formula(
        "changes_share",
        "items: changes that fit beside the index until the next daily export",
        "max_added / changed / items",
        "an index that takes additions: Milvus or another service, sharded by item",
    ),
    Formula(
        "build_share",
        "items: `hnsw` built within a day",
        "POW(86400 / build_1m_s, 1 / build_power) * 1e6 / items",
        "an index that is built in shards, beside each other",
    ),
    Formula(
        "append_share",
        "requests: one store takes the events that follow",
        "appended * busy / fresh / requests",
        "stores that share users out: Redis Cluster, or a store for each cell",
    ),
    Formula(
        "memory_share",
        "items: index, vectors and the rates of half as many ranking processes as cores, in a host's memory",
        "host_gb * 1e9 / items"
        " / (hnsw_bytes / 1e6 + vectors_mib * 1048576 / 1e5 + actions * rate_bytes * host_cores / 2)",
        "rates in one mapped file, as vectors are; candidates' vectors from the index; quantised vectors",
    ),
    Formula(
        "slots_share",
        "users who are there: slots in half the memory of the hosts that compute",
        "compute_hosts * host_gb / 2 / 1000 / slot_tb",
        "`int8`, shorter windows, and slots for those only who come again soon",
    ),
)
GPUS = (
    Formula("gpus_by_rate", "GPUs, if compute decides", "requests / gpu_rate / busy"),
    Formula(
        "gpus_by_slots",
        "GPUs, if slots of users who are there decide, in bfloat16",
        "slot_tb * 1000 * bfloat16_slot / float32_slot / gpu_gb",
    ),
    Formula("gpu_cores", "cores of the measured kind that such a GPU replaces", "gpu_rate * request_s"),
)


def declared() -> tuple[Given, ...]:
    """What the code itself says."""
    proxy = (ROOT / "docker" / "proxy" / "haproxy.cfg").read_text()
    replicas = len(
        re.findall(r'^ *server replica-\d+ "\$\{UNIPINREC_REPLICA_\d+_HTTP\}"', proxy, re.MULTILINE)
    )
    added = ServingSettings.model_fields["max_added_items"].default
    return (
        Given("chunk", "events of a page of the store", "ensemble/stores/event_chunks.py", CHUNK_EVENTS),
        Given("page", "bytes of it; an event has 32", "ensemble/stores/event_chunks.py", 4096),
        Given("rate_bytes", "bytes of a base rate", "limits.md", np.dtype(np.float32).itemsize),
        Given(
            "max_added", "rows beside the index", "UNIPINREC_MAX_ADDED_ITEMS in ensemble/settings.py", added
        ),
        Given("proxy_replicas", "replicas that a proxy knows", "docker/proxy/haproxy.cfg", replicas),
    )


def read_field(source: str, results: Path) -> float:
    """Return what a source, `report > step > …`, has.

    `name=value` keeps the entries of a list that have it; once one is left, the steps go on in that. A list
    of numbers is its median.

    Raises:
        PlanError: there is no such report or field, or it is no number.
    """
    report, *steps = source.split(" > ")
    path = results / report
    if not path.is_file():
        raise PlanError(f"report is {report}; there is none in {results}")
    found: Any = json.loads(path.read_text())
    for step in steps:
        found = _taken(found, step, source)
    if isinstance(found, list) and found and all(isinstance(each, float | int) for each in found):
        return float(np.median(found))
    if isinstance(found, bool) or not isinstance(found, float | int):
        raise PlanError(f"field is {source}; its value is no number")
    return float(found)


def _taken(found: Any, step: str, source: str) -> Any:
    if isinstance(found, list):
        name, _, value = step.partition("=")
        kept = [each for each in found if str(each.get(name)) == value]
        found = kept[0] if len(kept) == 1 else kept
    else:
        found = found.get(step) if isinstance(found, Mapping) else None
    if found is None or found == []:
        raise PlanError(f"field is {source}; there is nothing at {step}")
    return found


def plan(results: Path) -> dict[str, float]:
    """Return every number by name: given ones, and those that follow from them."""
    values = {given.name: given.value for given in (*ASSUMED, *ASSUMED_OF_GPUS, *declared()) if given.value}
    values |= {given.name: read_field(given.source, results) for given in MEASURED}
    frame = pl.DataFrame({name: [float(value)] for name, value in values.items()})
    for formula in (*COSTS, *LIMITS, *GPUS):
        frame = frame.with_columns(pl.sql_expr(formula.text).alias(formula.name))
    return {name: float(value) for name, value in frame.row(0, named=True).items()}


def tables(values: Mapping[str, float]) -> dict[str, str]:
    """Return the tables of the page by name, in Markdown."""
    limits = sorted(LIMITS, key=lambda limit: values[limit.name])
    given = ("name", "what", "value", "from")
    follows = ("name", "what", "formula", "value")
    return {
        "assumed": _table(given, _given_rows(ASSUMED, values)),
        "measured": _table(given, _given_rows((*MEASURED, *declared()), values)),
        "costs": _table(follows, _formula_rows(COSTS, values)),
        "limits": _table(
            ("what holds, and until when", "share of the goal", "formula", "what then"),
            (
                (limit.what, shown(values[limit.name]), f"`{limit.text}`", limit.replacement)
                for limit in limits
            ),
        ),
        "gpus_assumed": _table(given, _given_rows(ASSUMED_OF_GPUS, values)),
        "gpus": _table(follows, _formula_rows(GPUS, values)),
    }


def _given_rows(rows: tuple[Given, ...], values: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    return ((f"`{row.name}`", row.what, shown(values[row.name]), row.source) for row in rows)


def _formula_rows(rows: tuple[Formula, ...], values: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    return ((f"`{row.name}`", row.what, f"`{row.text}`", shown(values[row.name])) for row in rows)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: float) -> str:
    """Return a number with three digits that count, or all of them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def filled(page: str, made: Mapping[str, str]) -> str:
    """Return a page with its tables made anew.

    Raises:
        PlanError: the page lacks a table, or has one that nothing makes.
    """
    names = [match[2] for match in BLOCK.finditer(page)]
    if sorted(names) != sorted(made):
        raise PlanError(f"tables of the page are {sorted(names)}; allowed: {sorted(made)}")
    return BLOCK.sub(lambda match: match[1] + "\n" + made[match[2]] + "\n" + match[3], page)


def picture(values: Mapping[str, float]) -> Figure:
    """Return the hosts that each part fills by itself."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [name.removesuffix("_hosts").replace("_", " ") for name in reversed(HOSTS)]
    hosts = [values[name] for name in reversed(HOSTS)]
    bars = axes.barh(names, hosts, color="tab:blue")
    axes.bar_label(bars, [shown(value) for value in hosts], padding=3)
    axes.set(xscale="log", xlabel=f"hosts of {shown(values['host_cores'])} cores", xlim=(1, max(hosts) * 2))
    return figure
