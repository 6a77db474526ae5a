"""Which requests the edge lets in, and how it knows which are under way."""

import time
from pathlib import Path

import pytest

from ensemble.nodes.admission import CANARIES, FEW, SETTLE_US, SHARE, Admission, Estimate
from ensemble.nodes.contract import RefusedError
from ensemble.nodes.in_flight import OVERTAKEN_US, PLACES, Ended, Ending, InFlight, InFlightTables, Ticket

SECOND_US = 1_000_000


def admission(folder: Path, max_in_flight: int = 100) -> Admission:
    return Admission(folder, deadline_ms=1_000, max_in_flight=max_in_flight)


def ended(took_us: int, ahead: int, ending: Ending = Ending.ANSWERED) -> Ended:
    return Ended(ending, took_us, 1, ahead)


def test_a_ticket_survives_its_tensor() -> None:
    ticket = Ticket(7, 8, 9)
    assert ticket.to_array(3).shape == (3, 3)
    assert Ticket.of_array(ticket.to_array(3)) == ticket


def test_a_request_is_under_way_until_another_process_closes_it(tmp_path: Path) -> None:
    edge, node = InFlight(tmp_path), InFlightTables(tmp_path)
    first, second = edge.open(2, SECOND_US, 0), edge.open(3, SECOND_US, 0)
    assert edge.users == 5
    assert list(edge.settle(10)) == []
    node.close(second, Ending.EXPIRED)
    (one,) = edge.settle(20)
    assert (one.ending, one.users, one.ahead) == (Ending.EXPIRED, 3, 2)
    assert edge.users == 2
    node.close(first, Ending.ANSWERED)
    assert [one.ahead for one in edge.settle(30)] == [0]
    assert edge.users == 0


def test_a_place_is_given_again_and_a_late_word_of_its_last_request_changes_nothing(tmp_path: Path) -> None:
    edge, node = InFlight(tmp_path), InFlightTables(tmp_path)
    late = edge.open(1, SECOND_US, 0)
    assert list(edge.settle(2 * SECOND_US)) == []
    assert edge.users == 0
    again = edge.open(1, 4 * SECOND_US, 3 * SECOND_US)
    assert again.place == late.place
    node.close(late, Ending.ANSWERED)
    assert list(edge.settle(3 * SECOND_US)) == []
    assert edge.users == 1


def test_what_nobody_closes_ends_when_it_has_been_overtaken(tmp_path: Path) -> None:
    edge, node = InFlight(tmp_path), InFlightTables(tmp_path)
    edge.open(1, 60 * SECOND_US, 0)
    soon = edge.open(1, 60 * SECOND_US, OVERTAKEN_US - 1)
    node.close(soon, Ending.ANSWERED)
    assert len(list(edge.settle(SECOND_US))) == 1
    assert edge.users == 1
    node.close(edge.open(1, 60 * SECOND_US, OVERTAKEN_US + 1), Ending.FAILED)
    assert len(list(edge.settle(SECOND_US))) == 1
    assert edge.users == 0


@pytest.mark.parametrize("ticket", [Ticket(1), Ticket(1, 12345, 0), Ticket(1, -3, 0), Ticket(1, 1, PLACES)])
def test_a_ticket_of_no_edge_closes_nothing(tmp_path: Path, ticket: Ticket) -> None:
    InFlightTables(tmp_path).close(ticket, Ending.ANSWERED)


def test_the_estimate_grows_with_the_users_ahead_as_answers_did() -> None:
    estimate = Estimate()
    assert estimate.expect_us(1, 50) == 0
    for _ in range(100):
        estimate.learn(ended(10_000, 0))
    assert estimate.expect_us(1, 0) == pytest.approx(10_000)
    for ahead in range(8, 200):
        estimate.learn(ended(10_000 + 3_000 * (ahead + 1), ahead))
    assert estimate.expect_us(1, 99) == pytest.approx(310_000, rel=0.01)
    # An idle hour teaches little about crowds.
    for _ in range(100):
        estimate.learn(ended(10_000, 1))
    assert estimate.expect_us(1, 99) == pytest.approx(310_000, rel=0.03)
    # Nor do requests that failed, or expired sooner than they would have been answered.
    for ending in (Ending.FAILED, Ending.EXPIRED):
        for _ in range(100):
            estimate.learn(ended(1, 99, ending))
    assert estimate.expect_us(1, 99) == pytest.approx(310_000, rel=0.03)
    estimate.learn(ended(1_000_000, 99, Ending.EXPIRED))
    assert estimate.expect_us(1, 99) > 320_000


def test_the_time_of_a_request_of_many_users_is_not_taken_for_that_of_one() -> None:
    estimate = Estimate()
    estimate.learn(Ended(Ending.ANSWERED, took_us=90_000, users=16, ahead=0))
    assert estimate.expect_us(16, 0) == pytest.approx(90_000)
    assert estimate.expect_us(1, 0) == pytest.approx(15_000)


def test_what_would_come_too_late_is_refused_with_the_time_to_come_again(tmp_path: Path) -> None:
    gate = admission(tmp_path)
    for ahead in range(8, 200):
        gate._estimate.learn(ended(10_000 * (ahead + 1), ahead))
    allowed = int(SHARE * 200 / 10)
    for _ in range(allowed):
        gate.admit(1, 200_000)
    with pytest.raises(RefusedError, match=rf"{allowed} users are ahead.*200 ms; retry after 0\.05 s"):
        gate.admit(1, 200_000)
    # Who waits longer is still let in, and a canary too.
    gate.admit(1, 2_000_000)
    gate.admit(1, 200_000, canary=True)
    gate.admit(80, 5_000_000)
    with pytest.raises(RefusedError, match=r"retry after 0\.8\d s"):
        gate.admit(1, 200_000)


def test_no_more_users_are_under_way_than_the_limit_and_a_few_canaries(tmp_path: Path) -> None:
    gate = admission(tmp_path, max_in_flight=20)
    for _ in range(20):
        gate.admit(1, 0)
    with pytest.raises(RefusedError, match="20 users are ahead"):
        gate.admit(1, 0)
    for _ in range(CANARIES):
        gate.admit(1, 0, canary=True)
    with pytest.raises(RefusedError):
        gate.admit(1, 0, canary=True)


def test_a_few_are_always_let_in_and_everybody_without_a_limit(tmp_path: Path) -> None:
    gate = admission(tmp_path)
    gate._estimate.learn(ended(60_000_000, 0))
    for _ in range(FEW):
        gate.admit(1, 1_000)
    with pytest.raises(RefusedError):
        gate.admit(1, 1_000)
    everybody = admission(tmp_path, max_in_flight=0)
    assert {everybody.admit(1, 0).table for _ in range(500)} == {0}


def test_room_comes_back_when_requests_end(tmp_path: Path) -> None:
    gate, node = admission(tmp_path, max_in_flight=10), InFlightTables(tmp_path)
    tickets = [gate.admit(1, 0) for _ in range(10)]
    for ticket in tickets[:5]:
        node.close(ticket, Ending.ANSWERED)
    time.sleep(2 * SETTLE_US / SECOND_US)
    for _ in range(5):
        gate.admit(1, 0)
    with pytest.raises(RefusedError):
        gate.admit(1, 0)
