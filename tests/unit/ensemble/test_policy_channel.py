"""What `history` asks a policy, over datagrams that get lost rather than wait."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ensemble.policy.request_channel import (
    BUSY,
    DEAD,
    PolicyRequest,
    Question,
    RequestReceiver,
    RequestSender,
    Ticket,
)
from unipinrec.data.history import History


def history_of(events: int) -> History:
    number_N = np.arange(events)
    return History(
        item_row_N=number_N + 7, actions_N=number_N % 4, timestamp_N=number_N + 10**9, surface_N=number_N % 2
    )


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[RequestSender]:
    sender = RequestSender(tmp_path)
    yield sender
    sender.close()


def question(events: int) -> Question:
    return Question(history_of(events), 1_750_000_000 + events, events % 2)


def ask(sender: RequestSender, events: int = 1) -> Ticket:
    (ticket,) = sender.ask([question(events)])
    return ticket


def assert_equal(found: PolicyRequest, ticket: Ticket, asked: Question) -> None:
    assert found.ticket == ticket
    assert found.question[1:] == asked[1:]
    for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N"):
        assert getattr(found.question.history, name).tolist() == getattr(asked.history, name).tolist()


@pytest.mark.parametrize("lengths", [[0], [1], [64], [512] * 8, [6_000], list(range(40))])
def test_what_is_asked_arrives_whole(tmp_path: Path, sender: RequestSender, lengths: list[int]) -> None:
    receiver = RequestReceiver(tmp_path)
    asked = [question(events) for events in lengths]
    tickets = sender.ask(asked)
    found: list[PolicyRequest] = []
    while more := receiver.receive(0.1):
        found += more
    assert len({ticket.number for ticket in tickets}) == len(asked)
    for request, ticket, sent in zip(found, tickets, asked, strict=True):
        assert_equal(request, ticket, sent)
    receiver.close()


def test_nothing_is_asked_about_nobody(tmp_path: Path, sender: RequestSender) -> None:
    receiver = RequestReceiver(tmp_path)
    assert sender.ask([]) == []
    assert receiver.receive(0.0) == []
    receiver.close()


def test_requests_that_wait_are_received_together_and_none_is_waited_for_in_vain(
    tmp_path: Path, sender: RequestSender
) -> None:
    receiver = RequestReceiver(tmp_path)
    tickets = [ask(sender) for _ in range(5)]
    assert [found.ticket for found in receiver.receive(1.0)] == tickets
    began = time.monotonic()
    assert receiver.receive(0.05) == []
    assert 0.04 < time.monotonic() - began < 1.0
    receiver.close()


def test_nobody_listens_before_a_receiver_comes_and_after_it_has_gone(
    tmp_path: Path, sender: RequestSender
) -> None:
    assert ask(sender).number == DEAD
    receiver = RequestReceiver(tmp_path)
    assert ask(sender).number > 0
    receiver.close()
    assert ask(sender).number == DEAD


def test_a_second_receiver_takes_the_place_of_the_first(tmp_path: Path, sender: RequestSender) -> None:
    first, second = RequestReceiver(tmp_path), RequestReceiver(tmp_path)
    ticket = ask(sender)
    assert first.receive(0.0) == []
    assert [found.ticket for found in second.receive(1.0)] == [ticket]
    first.close()
    assert ask(sender).number > 0
    second.close()


def test_a_receiver_that_hangs_makes_nobody_wait(tmp_path: Path, sender: RequestSender) -> None:
    receiver = RequestReceiver(tmp_path)
    began = time.monotonic()
    numbers = {ask(sender, 64).number for _ in range(5_000)}
    assert BUSY in numbers
    assert time.monotonic() - began < 5.0
    receiver.close()


def test_what_is_no_request_is_left_out(tmp_path: Path, sender: RequestSender) -> None:
    receiver = RequestReceiver(tmp_path)
    whole = PolicyRequest(Ticket(1, 2), question(2)).to_numbers().tobytes()
    negative = np.array([1, 2, 3, 4, -1]).tobytes()
    for datagram in (b"1", whole[:-8], whole + whole[:16], whole[:16], negative):
        sender._socket.sendto(datagram, str(tmp_path / "policy" / "requests"))
    ticket = ask(sender)
    assert [found.ticket for found in receiver.receive(1.0)] == [ticket]
    receiver.close()


def test_folders_with_long_names_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    receiver, sender = RequestReceiver(folder), RequestSender(folder)
    assert ask(sender).number > 0
    receiver.close()
    sender.close()
