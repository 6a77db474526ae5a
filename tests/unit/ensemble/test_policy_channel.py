"""What `history` asks a policy, over datagrams that get lost rather than wait."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ensemble.policy.request_channel import BUSY, DEAD, PolicyRequest, RequestReceiver, RequestSender, Ticket
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


def assert_equal(found: PolicyRequest, ticket: Ticket, history: History) -> None:
    assert (found.ticket, found.request_time, found.surface) == (ticket, 1_750_000_000, 1)
    for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N"):
        assert getattr(found.history, name).tolist() == getattr(history, name).tolist()


@pytest.mark.parametrize("events", [0, 1, 64, 512])
def test_what_is_asked_arrives_whole(tmp_path: Path, sender: RequestSender, events: int) -> None:
    receiver = RequestReceiver(tmp_path)
    ticket = sender.ask(history_of(events), 1_750_000_000, 1)
    assert ticket.number > 0
    (found,) = receiver.receive(16, 1.0)
    assert_equal(found, ticket, history_of(events))
    receiver.close()


def test_requests_that_wait_are_received_together_and_none_is_waited_for_in_vain(
    tmp_path: Path, sender: RequestSender
) -> None:
    receiver = RequestReceiver(tmp_path)
    tickets = [sender.ask(history_of(3), 1_750_000_000, 1) for _ in range(5)]
    assert [found.ticket for found in receiver.receive(4, 1.0)] == tickets[:4]
    assert [found.ticket for found in receiver.receive(4, 1.0)] == tickets[4:]
    began = time.monotonic()
    assert receiver.receive(4, 0.05) == []
    assert 0.04 < time.monotonic() - began < 1.0
    receiver.close()


def test_nobody_listens_before_a_receiver_comes_and_after_it_has_gone(
    tmp_path: Path, sender: RequestSender
) -> None:
    assert sender.ask(history_of(1), 0, 0).number == DEAD
    receiver = RequestReceiver(tmp_path)
    assert sender.ask(history_of(1), 0, 0).number > 0
    receiver.close()
    assert sender.ask(history_of(1), 0, 0).number == DEAD


def test_a_second_receiver_takes_the_place_of_the_first(tmp_path: Path, sender: RequestSender) -> None:
    first, second = RequestReceiver(tmp_path), RequestReceiver(tmp_path)
    ticket = sender.ask(history_of(2), 1_750_000_000, 1)
    assert first.receive(1, 0.0) == []
    assert [found.ticket for found in second.receive(1, 1.0)] == [ticket]
    first.close()
    assert sender.ask(history_of(2), 1_750_000_000, 1).number > 0
    second.close()


def test_a_receiver_that_hangs_makes_nobody_wait(tmp_path: Path, sender: RequestSender) -> None:
    receiver = RequestReceiver(tmp_path)
    began = time.monotonic()
    numbers = {sender.ask(history_of(64), 0, 0).number for _ in range(5_000)}
    assert BUSY in numbers
    assert time.monotonic() - began < 5.0
    receiver.close()


def test_what_is_no_request_is_left_out(tmp_path: Path, sender: RequestSender) -> None:
    receiver = RequestReceiver(tmp_path)
    whole = PolicyRequest(Ticket(1, 2), 3, 4, history_of(2)).to_bytes()
    for datagram in (b"", b"1", whole[:-8], whole + whole, whole[:16]):
        sender._socket.sendto(datagram, str(tmp_path / "policy" / "requests"))
    ticket = sender.ask(history_of(1), 1_750_000_000, 1)
    assert [found.ticket for found in receiver.receive(16, 1.0)] == [ticket]
    receiver.close()


def test_folders_with_long_names_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    receiver, sender = RequestReceiver(folder), RequestSender(folder)
    assert sender.ask(history_of(1), 0, 0).number > 0
    receiver.close()
    sender.close()
