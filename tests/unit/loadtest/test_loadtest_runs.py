"""Schedules, measures, verdicts and the search for a capacity."""

import math

import numpy as np
import pytest

from loadtest.capacity import CapacityError, Search, Trial
from loadtest.measures import NothingMeasuredError, measure
from loadtest.outcomes import OK, Outcome
from loadtest.report import Check, broken
from loadtest.schedule import Arrivals, Shape, Stage, arrivals, duration_s, level_at, stages_of
from loadtest.soak import MemorySample, SoakPlan, growth, soak_checks
from loadtest.watch import NodeTime, node_times


def outcome(due_s: float, latency_ms: float, status: str = OK) -> Outcome:
    return Outcome(due_s, latency_ms, "new", status, "prefill" if status == OK else "")


def test_shapes_have_the_stages_that_they_promise() -> None:
    steps = stages_of(Shape.STEPS, 40, 20, warm_up_s=5)
    assert [(stage.seconds, stage.level) for stage in steps] == [(5, 10), (5, 10), (5, 20), (5, 30), (5, 40)]
    spike = stages_of(Shape.SPIKE, 10, 10, spike=3)
    assert [stage.level for stage in spike] == [10, 30, 10]
    assert duration_s(spike) == pytest.approx(10)
    assert [level_at(spike, at) for at in (0, 3.9, 4.1, 5.9, 6.1, 99)] == [10, 10, 30, 30, 10, 10]


def test_even_arrivals_have_equal_gaps_in_every_stage() -> None:
    due_S = arrivals([Stage(seconds=2, level=10), Stage(seconds=1, level=20)], Arrivals.EVEN, seed=0)
    assert len(due_S) == 40
    assert np.diff(due_S)[:19] == pytest.approx([0.1] * 19)
    assert np.diff(due_S)[20:] == pytest.approx([0.05] * 19)


def test_poisson_arrivals_follow_the_stages_and_the_seed() -> None:
    stages = [Stage(seconds=100, level=50), Stage(seconds=100, level=150)]
    due_S = arrivals(stages, Arrivals.POISSON, seed=4)
    assert (due_S < 100).sum() == pytest.approx(5_000, rel=0.05)
    assert (due_S >= 100).sum() == pytest.approx(15_000, rel=0.05)
    gaps = np.diff(due_S[due_S < 100])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (np.diff(due_S) > 0).all()
    assert due_S.tolist() == arrivals(stages, Arrivals.POISSON, seed=4).tolist()
    assert due_S.tolist() != arrivals(stages, Arrivals.POISSON, seed=5).tolist()


def test_only_requests_due_in_the_window_count_and_percentiles_are_exact() -> None:
    before = [outcome(at, 9_999) for at in (0.0, 0.9)]
    inside = [outcome(1 + n / 1000, n + 0.123) for n in range(1, 1000)]
    failed = [outcome(1.5, 5_000, "UNAVAILABLE")]
    measured = measure([*before, *inside, *failed], Arrivals.POISSON, 1, 2)
    assert (measured.requests, measured.answered, measured.errors) == (1000, 999, 1)
    assert measured.errors_by_status == {"UNAVAILABLE": 1}
    assert [measured.p50_ms, measured.p99_ms, measured.p99_9_ms, measured.max_ms] == pytest.approx(
        [500.123, 990.123, 999.123, 999.123], abs=1e-9
    )
    # The last answer came 0.998 s after the window.
    assert measured.rps_reached == pytest.approx(999 / 1.998123)
    with pytest.raises(NothingMeasuredError, match="UNAVAILABLE"):
        measure(failed, Arrivals.POISSON, 0, 2)


@pytest.mark.parametrize(("begin_s", "end_s"), [(2.5, 8.5), (2.9, 8.1), (2.1, 8.9)])
def test_a_closed_loops_rate_counts_whole_batches_over_whole_gaps(begin_s: float, end_s: float) -> None:
    """Batches of 4 each second, and a window that cuts the gaps anywhere: 4 a second, not 3 or 5."""
    done = [second + place / 1000 for second in range(12) for place in range(4)]
    measured = measure([outcome(at - 1, 1000) for at in done], Arrivals.CLOSED, begin_s, end_s)
    assert measured.answered == 24
    assert measured.rps_reached == pytest.approx(4.0, rel=0.01)
    assert measured.p50_ms == pytest.approx(1000)


def test_the_errors_of_a_closed_loop_are_those_that_came_in_the_window() -> None:
    refused = [outcome(at, 10, "UNAVAILABLE") for at in (0.5, 1.5, 2.5)]
    measured = measure([outcome(1.1, 100), *refused], Arrivals.CLOSED, 1, 2)
    assert (measured.requests, measured.errors, measured.error_rate) == (2, 1, 0.5)


def test_time_of_nodes_is_a_mean_over_what_was_counted_between_two_readings() -> None:
    def read(count: float, queue_us: float, *compute_us: float) -> dict[str, dict[str, float]]:
        names = ("queue_duration_us", "compute_input_duration_us", "compute_infer_duration_us")
        totals = zip(names, (queue_us, *compute_us), strict=True)
        return {"request_success": {"ann": count, "idle": 3}} | {
            name: {"ann": total, "idle": 9} for name, total in totals
        }

    assert node_times(read(20, 70_000, 0, 20_000), read(30, 90_000, 10_000, 50_000)) == {
        "ann": NodeTime(queue_ms=2.0, compute_ms=4.0)
    }
    assert node_times({}, read(10, 10_000, 0, 0))["ann"].queue_ms == 1.0


def test_a_broken_threshold_is_named_with_value_and_limit() -> None:
    assert broken([Check("error rate", 0.02, 0.02), Check("p99", 20, 20, " ms")]) == []
    assert broken([Check("error rate", 0.02, 0.01), Check("p99", 20, 15, " ms")]) == [
        "error rate is 0.02; allowed: at most 0.01",
        "p99 is 20 ms; allowed: at most 15 ms",
    ]


def test_growth_is_of_what_comes_after_the_first_fifth() -> None:
    assert growth([1, 50, *[100] * 8]) == 0
    # Behind the first ten of fifty come 100 to 139: eight of them around 103.5, and at last around 135.5.
    assert growth([1] * 10 + [100 + n for n in range(40)]) == pytest.approx(135.5 / 103.5 - 1)
    with pytest.raises(ValueError, match="samples behind the warm-up are 1"):
        growth([1])


def test_a_soak_fails_for_a_leak_an_error_or_a_tail() -> None:
    plan = SoakPlan(
        rate=10,
        arrivals=Arrivals.EVEN,
        seconds=10,
        every_s=1,
        max_growth=0.02,
        max_p99_over_p50=3.0,
    )

    def told(outcomes: list[Outcome], rss: list[int], shared: list[int] | None = None) -> list[str]:
        measured = measure(outcomes, Arrivals.EVEN, 0, 10)
        pairs = zip(rss, shared or [5] * len(rss), strict=True)
        samples = [MemorySample(float(at), *pair) for at, pair in enumerate(pairs)]
        return [check.name for check in soak_checks(plan, measured, samples) if not check.kept]

    steady = [outcome(n / 10, 10) for n in range(100)]
    assert told(steady, [1000] * 20) == []
    assert told(steady, [1000 + 5 * n for n in range(20)]) == ["growth of resident memory"]
    assert told(steady, [1000] * 20, [1000 + 5 * n for n in range(20)]) == ["growth of shared memory"]
    assert told([*steady[:98], outcome(9.8, 31), outcome(9.9, 31)], [1000] * 20) == ["p99 over p50"]
    assert told([*steady, outcome(9.95, 1, "UNAVAILABLE")], [1000] * 20) == ["errors"]


SERVED_A_SECOND = 100.0


def queue(rate: float) -> Trial:
    """One server with exponential service: p99 of the time in the system is -ln(0.01) / (served - rate)."""
    if rate >= SERVED_A_SECOND:
        return Trial(rate, math.inf, SERVED_A_SECOND)
    return Trial(rate, 1e3 * -math.log(0.01) / (SERVED_A_SECOND - rate), rate)


@pytest.mark.parametrize("start", [3.0, 70.0, 400.0])
@pytest.mark.parametrize("limit_ms", [80.0, 200.0, 1_000.0])
def test_the_search_finds_the_rate_that_theory_gives(start: float, limit_ms: float) -> None:
    exact = SERVED_A_SECOND - -math.log(0.01) * 1e3 / limit_ms
    search = Search(p99_ms=limit_ms, start=start, precision=0.02, most_trials=30)
    found, trials = search.run(queue)
    assert exact / 1.02 <= found <= exact
    assert found == max(one.rate for one in trials if search.keeps(one))


def test_errors_and_a_growing_queue_break_the_limits() -> None:
    search = Search(p99_ms=10, start=100)
    assert search.keeps(Trial(100, 10, 95))
    assert not search.keeps(Trial(100, 10, 95, errors=1))
    assert not search.keeps(Trial(100, 10, 80))
    assert not search.keeps(Trial(100, 11, 100))


def test_a_limit_that_no_rate_keeps_is_an_error() -> None:
    with pytest.raises(CapacityError, match="keeps p99 at most 1 ms"):
        Search(p99_ms=1, start=10, most_trials=4).run(queue)
