"""Percentiles, rates, spreads, ratios and stages, from numbers that were worked out by hand."""

import numpy as np
import pytest

from benchmarks.caller import OK
from benchmarks.compare import rotated
from benchmarks.load import Outcome, Recording
from benchmarks.measures import Measured, measure_closed, percentiles, row_of
from benchmarks.ratios import best_concurrency, by_concurrency, headline
from benchmarks.stages import Counters, mean_stages, stages_of


def measured(qps: float, p50_ms: float = 1.0, **fields: object) -> Measured:
    defaults: dict[str, object] = {
        "requests": 10,
        "p90_ms": 2 * p50_ms,
        "p99_ms": 3 * p50_ms,
        "mean_ms": p50_ms,
        "errors": {},
        "kv_source": {"prefill": 10},
        "client_cpu_share": 0.01,
    }
    return Measured(qps=qps, p50_ms=p50_ms, **(defaults | fields))


def test_percentiles_are_values_that_were_seen() -> None:
    latency_R = np.array([5.0, 1.0, 2.0, 4.0, 3.0, 6.0, 7.0, 8.0, 9.0, 100.0])
    assert percentiles(latency_R, (50, 90, 99)) == [5.0, 9.0, 100.0]
    assert percentiles(np.array([7.0]), (50, 90, 99)) == [7.0, 7.0, 7.0]


def test_the_rate_counts_whole_bursts_over_whole_gaps() -> None:
    """Batches of 4 each second, and a window that cuts the gaps anywhere: 4 a second, not 3 or 5."""
    done = [second + place / 1000 for second in range(12) for place in range(4)]
    for begin, end in ((2.5, 8.5), (2.9, 8.1), (2.1, 8.9)):
        recording = Recording(
            outcomes=[Outcome(at - 1.0, at, OK, "prefill") for at in done], begin_s=begin, end_s=end
        )
        found = measure_closed(recording)
        assert found.requests == 24
        assert found.qps == pytest.approx(4.0, rel=0.01)
        assert found.p50_ms == pytest.approx(1000)


def test_a_row_has_medians_and_extremes_of_rounds_and_sums_of_counts() -> None:
    rounds = [
        measured(10, errors={"UNAVAILABLE": 1}, kv_source={"prefix": 6, "prefill": 4}),
        measured(30, errors={"UNAVAILABLE": 2, "INTERNAL": 1}, kv_source={"prefix": 10}),
        measured(11, kv_source={"prefix": 8, "recomputed": 2}),
    ]
    row = row_of("unified_warm", rounds, concurrency=4)
    assert (row.arrival, row.concurrency, row.rate, row.rounds, row.requests) == ("closed", 4, None, 3, 30)
    assert (row.qps, row.spreads["qps"].low, row.spreads["qps"].high) == (11, 10, 30)
    assert (row.errors, row.errors_by_status) == (4, {"UNAVAILABLE": 3, "INTERNAL": 1})
    assert row.kv_source == {"prefix": 24, "prefill": 4, "recomputed": 2}
    assert row.hit_share == pytest.approx(0.8)
    assert row_of("unified_warm", rounds, rate=2.5).arrival == "open"


def test_ratios_are_paired_by_round_before_the_median_is_taken() -> None:
    # A machine that is twice as slow in round 2 must not show: 2, 2 and 1.5 by round.
    unified = {1: [measured(20, 5), measured(10, 10), measured(15, 6)]}
    separate = {1: [measured(10, 10), measured(5, 20), measured(10, 8)]}
    found = headline(unified, separate)
    assert found["qps"].rounds == (2.0, 2.0, 1.5)
    assert (found["qps"].value, found["qps"].low, found["qps"].high) == (2.0, 1.5, 2.0)
    assert found["p50"].rounds == (0.5, 0.5, 0.75)
    assert found["p50"].value == 0.5


def test_rates_are_compared_where_each_stack_is_best_and_latencies_one_request_at_a_time() -> None:
    unified = {1: [measured(10, 4)], 4: [measured(30, 9)], 16: [measured(40, 30)]}
    separate = {1: [measured(8, 8)], 4: [measured(20, 16)], 16: [measured(16, 60)]}
    assert (best_concurrency(unified), best_concurrency(separate)) == (16, 4)
    found = headline(unified, separate)
    assert found["qps"].value == 2.0
    assert (found["qps"].unified_concurrency, found["qps"].separate_concurrency) == (16, 4)
    assert found["p50"].value == 0.5
    assert (found["p50"].unified_concurrency, found["p50"].separate_concurrency) == (1, 1)
    levels = by_concurrency(unified, separate)
    assert [one.value for one in levels["qps"]] == [1.25, 1.5, 2.5]
    assert [one.unified_concurrency for one in levels["p50"]] == [1, 4, 16]


def test_every_stack_is_first_once() -> None:
    assert [rotated(["a", "b", "c"], place) for place in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_stages_add_up_to_what_the_client_saw() -> None:
    after = {"history": Counters(30, 90_000_000, 60_000_000), "ranking": Counters(50, 10_000_000, 0)}
    before = {"history": Counters(20, 70_000_000, 20_000_000), "ranking": Counters(40, 0, 0)}
    counted = {node: after[node] - before[node] for node in after}
    stages = stages_of("unified_cold", 1, counted, client_mean_ms=12.0)
    history, ranking = stages.nodes
    assert (history.node, history.queue_ms, history.compute_ms) == ("history", 2.0, 4.0)
    assert (ranking.queue_ms, ranking.compute_ms) == (1.0, 0.0)
    assert stages.rest_ms == 5.0
    other = stages_of("unified_cold", 1, counted, client_mean_ms=14.0)
    assert mean_stages([stages, other]).rest_ms == 6.0
    assert mean_stages([stages, other]).nodes == stages.nodes
