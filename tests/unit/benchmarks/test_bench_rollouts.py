"""Which requests count as met by a rollout."""

from benchmarks.rollouts import AFTER_S, BEFORE_S, Change, Latency, by_time
from loadtest.outcomes import OK, Outcome

DEPLOY = Change("deploy", began_s=100.0, switched_s=120.0, ended_s=121.0)
ROLLBACK = Change("rollback", began_s=140.0, switched_s=140.1, ended_s=140.2)


def due(*times: float, status: str = OK) -> list[Outcome]:
    return [Outcome(at, at, "returning", status, "prefix") for at in times]


def test_requests_are_told_apart_by_what_went_on_when_they_were_due() -> None:
    found = by_time(due(90.0, 100.0, 119.0, 119.6, 121.9, 122.1, 130.0, 140.0, 142.0), [DEPLOY, ROLLBACK])
    assert (BEFORE_S, AFTER_S) == (0.5, 2.0)
    assert {name: [outcome.due_s for outcome in outcomes] for name, outcomes in found.items()} == {
        "between": [90.0, 130.0],
        "loading": [100.0, 119.0],
        "switch": [119.6, 121.9, 140.0, 142.0],
    }


def test_latency_is_of_answered_requests() -> None:
    found = Latency.of(due(1.0, 2.0, 3.0) + due(9.0, status="UNAVAILABLE"))
    assert (found.requests, found.p50_ms, found.max_ms) == (4, 2.0, 3.0)
