"""Spreads, ratios and stages over rounds, from numbers that were worked out by hand."""

import os

import pytest

from benchmarks.unified.measures import (
    best_concurrency,
    ratios,
    ratios_by_concurrency,
    row_of,
    stages_of,
)
from benchmarks.unified.stacks import rotated
from loadtest.generator import WindowPlan
from loadtest.measures import Measured
from loadtest.outcomes import OK, Outcome
from loadtest.schedule import Arrivals
from loadtest.watch import NodeTime, Usage
from loadtest.windows import Window


def window(
    qps: float,
    p50_ms: float = 1.0,
    *,
    answered: int = 10,
    kv_source: dict[str, float] | None = None,
    outcomes: list[Outcome] | None = None,
    nodes: dict[str, NodeTime] | None = None,
) -> Window:
    measured = Measured(
        requests=answered,
        answered=answered,
        seconds=1.0,
        rps_asked=qps,
        rps_reached=qps,
        p50_ms=p50_ms,
        p90_ms=2 * p50_ms,
        p99_ms=3 * p50_ms,
        p99_9_ms=3 * p50_ms,
        max_ms=3 * p50_ms,
        errors=0,
        error_rate=0.0,
        errors_by_status={},
        kinds={},
        kv_source=kv_source or {"prefill": 1.0},
    )
    return Window(
        plan=WindowPlan(arrivals=Arrivals.CLOSED, level=1),
        measured=measured,
        usage=Usage(cores={}, machine_share=0.5),
        nodes=nodes or {},
        generator_cores=0.1,
        outcomes=outcomes or [],
        answers=[],
        began_s=0.0,
    )


def outcomes(*statuses: str, latency_ms: float = 5.0) -> list[Outcome]:
    return [Outcome(0.0, latency_ms, "returning", status, "") for status in statuses]


def test_a_row_has_medians_and_extremes_of_rounds_and_sums_of_counts() -> None:
    rounds = [
        window(10, outcomes=outcomes(OK, "UNAVAILABLE"), kv_source={"prefix": 0.6, "prefill": 0.4}),
        window(30, outcomes=outcomes("UNAVAILABLE", "UNAVAILABLE", "INTERNAL"), kv_source={"prefix": 1.0}),
        window(11, kv_source={"prefix": 0.8, "recomputed": 0.2}),
    ]
    row = row_of("unified_warm", rounds, concurrency=4)
    assert (row.arrival, row.concurrency, row.rate, row.rounds, row.requests) == ("closed", 4, None, 3, 30)
    assert (row.qps, row.spreads["qps"]) == (11, (10, 30))
    # Also those of the warm-up, which no percentile has.
    assert (row.errors, row.errors_by_status) == (4, {"UNAVAILABLE": 3, "INTERNAL": 1})
    assert row.kv_source == {"prefix": 24, "prefill": 4, "recomputed": 2}
    assert row.hit_share == pytest.approx(0.8)
    assert row.client_cpu_share == pytest.approx(0.1 / (os.cpu_count() or 1))
    assert row_of("unified_warm", rounds, rate=2.5).arrival == "open"


def test_ratios_are_paired_by_round_before_the_median_is_taken() -> None:
    # A machine that is twice as slow in round 2 must not show: 2, 2 and 1.5 by round.
    unified = {1: [window(20, 5), window(10, 10), window(15, 6)]}
    separate = {1: [window(10, 10), window(5, 20), window(10, 8)]}
    found = ratios({"unified_cold": unified, "separate_cold": separate, "unified_zipf": unified})
    assert found.keys() == {"qps_cold", "p50_cold"}
    assert found["qps_cold"].rounds == (2.0, 2.0, 1.5)
    assert (found["qps_cold"].value, found["qps_cold"].low, found["qps_cold"].high) == (2.0, 1.5, 2.0)
    assert found["p50_cold"].rounds == (0.5, 0.5, 0.75)
    assert found["p50_cold"].value == 0.5


def test_rates_are_compared_where_each_stack_is_best_and_latencies_one_request_at_a_time() -> None:
    unified = {1: [window(10, 4)], 4: [window(30, 9)], 16: [window(40, 30)]}
    separate = {1: [window(8, 8)], 4: [window(20, 16)], 16: [window(16, 60)]}
    assert (best_concurrency(unified), best_concurrency(separate)) == (16, 4)
    assert best_concurrency({4: [window(9)], 1: [window(9)]}) == 1
    found = ratios({"unified_warm": unified, "separate_warm": separate})
    assert found["qps_warm"].value == 2.0
    assert (found["qps_warm"].unified_concurrency, found["qps_warm"].separate_concurrency) == (16, 4)
    assert found["p50_warm"].value == 0.5
    assert (found["p50_warm"].unified_concurrency, found["p50_warm"].separate_concurrency) == (1, 1)
    levels = ratios_by_concurrency({"unified_warm": unified, "separate_warm": separate})
    assert [ratio.value for ratio in levels["qps_warm"]] == [1.25, 1.5, 2.5]
    assert [ratio.unified_concurrency for ratio in levels["p50_warm"]] == [1, 4, 16]


def test_every_stack_is_first_once() -> None:
    assert [rotated(["a", "b", "c"], place) for place in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_stages_add_up_to_what_the_client_saw() -> None:
    nodes = {"ranking": NodeTime(1.0, 0.0), "history": NodeTime(2.0, 4.0), "other": NodeTime(9.0, 9.0)}
    slower = nodes | {"history": NodeTime(4.0, 4.0)}
    rounds = [
        window(1, nodes=nodes, outcomes=[*outcomes(OK, latency_ms=12), *outcomes("INTERNAL", latency_ms=99)]),
        window(1, nodes=slower, outcomes=outcomes(OK, OK, latency_ms=16)),
    ]
    stages = stages_of("unified_cold", 1, ("history", "ranking"), rounds)
    history, ranking = stages.nodes
    assert (history.node, history.queue_ms, history.compute_ms) == ("history", 3.0, 4.0)
    assert (ranking.queue_ms, ranking.compute_ms) == (1.0, 0.0)
    assert stages.total_ms == 14.0
    assert stages.rest_ms == 6.0
