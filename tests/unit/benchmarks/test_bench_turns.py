"""What is made of requests and windows in turns, against servers that take a known time."""

import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.turns import Asked, Side, TrafficCost, ask_in_turns, run_in_turns
from benchmarks.unified.stacks import FillError
from loadtest.outcomes import OK
from loadtest.plan import LoadPlan
from loadtest.sender import Reply, Sender
from loadtest.traffic import Kind, StoredTraffic, Visit

PREPARE_S, SERVE_S = 0.05, 0.004
SIDES = ("one", "two", "three")


class Server(Sender):
    """Says who asked which model, and fails for `nobody`."""

    def prepare(self, visit: Visit) -> list[Any]:
        time.sleep(PREPARE_S)
        return [visit.user_id]

    def send(self, prepared: list[Any]) -> Reply:
        time.sleep(SERVE_S)
        return Reply("NOT_FOUND" if prepared == ["nobody"] else OK, result=(self._plan.model, prepared[0]))


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Side]:
    """Three that share their users, of which a window answers 10, 20 and 30 requests a second, then half."""
    monkeypatch.setattr("benchmarks.turns.connect", Server)
    users = StoredTraffic(["a", "b", "c", "d"])

    def windows(rate: float) -> Iterator[Any]:
        yield from (SimpleNamespace(measured=SimpleNamespace(rps_reached=rate / n)) for n in (1, 2))

    return {
        name: Side(LoadPlan(url="", model=name), users, windows(10.0 * place).__next__)
        for place, name in enumerate(SIDES, start=1)
    }


def test_each_turn_asks_every_side_beginning_with_another(sides: Mapping[str, Side]) -> None:
    turns = list(ask_in_turns(sides, 3))
    came = [asked.reply.result for turn in turns for asked in turn.values()]
    assert [name for name, _ in came] == ["one", "two", "three", "two", "three", "one", "three", "one", "two"]
    assert "".join(user for _, user in came) == "abcdabcda"


def test_what_it_takes_to_prepare_a_request_is_not_counted(sides: Mapping[str, Side]) -> None:
    took_ms = sides["one"].ask().took_ms
    assert 1e3 * SERVE_S <= took_ms < 1e3 * PREPARE_S


def test_a_request_that_fails_ends_the_run(sides: Mapping[str, Side]) -> None:
    with pytest.raises(FillError, match=r"two at .* answered a request with NOT_FOUND"):
        sides["two"].ask(Visit(Kind.NEW, "nobody", None))


def test_sides_are_compared_with_the_first_in_pairs(sides: Mapping[str, Side]) -> None:
    times_ms = {"one": [10.0, 20.0, 90.0], "two": [11.0, 21.0, 91.0], "three": [15.0, 22.0, 97.0]}
    turns = [{name: Asked(took[row], Reply(OK)) for name, took in times_ms.items()} for row in range(3)]
    cost = TrafficCost.of(turns, run_in_turns(sides, 2))
    assert cost.p50_ms == {"one": 20.0, "two": 21.0, "three": 22.0}
    assert {name: found.mean for name, found in cost.difference_ms.items()} == {"two": 1.0, "three": 5.0}
    assert (cost.difference_ms["three"].low, cost.difference_ms["three"].high) == (2.0, 7.0)
    assert cost.qps == {"one": (10.0, 5.0), "two": (20.0, 10.0), "three": (30.0, 15.0)}
    assert cost.qps_ratio["three"].mean == 3.0
