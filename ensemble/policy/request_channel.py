"""How a policy gets to know of a request: datagrams from `history`, which never wait and may get lost.

The policy is no step of the ensemble, since a step whose process is dead fails the request. So what it
is told and what it says go beside the graph, and a missing answer means static weights.

Shapes: N events.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ensemble.arrays import Int64s
from unipinrec.data.history import History

FOLDER = "policy"
"""In the runtime folder."""
SOCKET = "requests"
HEADER = 5
COLUMNS = 4
LARGEST_BYTES = 1 << 20
MOST_NUMBERS = 8_192
"""In a datagram of several requests: its bytes fit what Linux allows by default."""
MOST_TOGETHER = 16
"""Requests after which no further datagram is read before they are answered."""

NO_POLICY, DEAD, BUSY = 0, -1, -2
"""In place of a ticket's number: nothing was asked, nobody listens, or too many requests wait."""


class Ticket(NamedTuple):
    """Under which number a decision can be found, as `POLICY_TICKET` carries it."""

    number: int
    """Above 0, or one of `NO_POLICY`, `DEAD`, `BUSY`."""
    asked_ns: int
    """`time.monotonic_ns()` of when it was asked for; all processes of a machine share that clock."""

    def to_bytes(self) -> bytes:
        """Return the ticket as 16 bytes."""
        return np.array(self, np.int64).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Ticket":
        """Return the ticket of which `to_bytes` made bytes."""
        return cls(*np.frombuffer(content, np.int64).tolist())


NOTHING_ASKED = Ticket(NO_POLICY, 0)


class Question(NamedTuple):
    """What a policy is asked about one user."""

    history: History
    request_time: int
    surface: int


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """A question, and under which ticket its answer is looked for."""

    ticket: Ticket
    question: Question

    def to_numbers(self) -> Int64s:
        """Return the request as one array."""
        history, request_time, surface = self.question
        columns = (history.item_row_N, history.actions_N, history.timestamp_N, history.surface_N)
        header = (*self.ticket, request_time, surface, len(history))
        return np.concatenate([np.array(header, np.int64), *columns])


def requests_in(datagram: bytes) -> list[PolicyRequest]:
    """Return the requests in a datagram. Raises `ValueError` if it is not what `PolicyRequest` makes."""
    requests = []
    numbers: Int64s = np.frombuffer(datagram, np.int64)
    while len(numbers):
        if len(numbers) < HEADER or not 0 <= numbers[HEADER - 1] <= (len(numbers) - HEADER) // COLUMNS:
            raise ValueError(f"a datagram of {len(datagram)} bytes; allowed: headers, each with its columns")
        number, asked_ns, request_time, surface, events = numbers[:HEADER].tolist()
        end = HEADER + COLUMNS * events
        item_row_N, actions_N, timestamp_N, surface_N = numbers[HEADER:end].reshape(COLUMNS, events)
        history = History(
            item_row_N=item_row_N, actions_N=actions_N, timestamp_N=timestamp_N, surface_N=surface_N
        )
        requests.append(PolicyRequest(Ticket(number, asked_ns), Question(history, request_time, surface)))
        numbers = numbers[end:]
    return requests


class RequestSender:
    """What asks: the end of `history`."""

    def __init__(self, runtime_dir: Path) -> None:
        self._folder = runtime_dir / FOLDER
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # As far as the system allows: what waits to be read counts.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_BYTES)
        # Numbers of several senders, and of one before it was restarted, lie far apart.
        self._number = secrets.randbits(62)

    def ask(self, questions: Sequence[Question]) -> list[Ticket]:
        """Return a ticket for each answer that was asked for, or why none will come; never waits."""
        tickets = []
        # Linux lets as few as ten datagrams wait, so users who are asked about together share one.
        longest = max((len(question.history) for question in questions), default=0)
        together = max(MOST_NUMBERS // (HEADER + COLUMNS * longest), 1)
        for begin in range(0, len(questions), together):
            tickets += self._ask(questions[begin : begin + together])
        return tickets

    def _ask(self, questions: Sequence[Question]) -> list[Ticket]:
        now_ns = time.monotonic_ns()
        first, self._number = self._number + 1, self._number + len(questions)
        tickets = [Ticket(first + place, now_ns) for place in range(len(questions))]
        requests = map(PolicyRequest, tickets, questions)
        datagram = np.concatenate([request.to_numbers() for request in requests]).tobytes()
        try:
            with _short(self._folder) as folder:
                self._socket.sendto(datagram, f"{folder}/{SOCKET}")
        except BlockingIOError:
            return [Ticket(BUSY, now_ns)] * len(questions)
        except OSError:
            return [Ticket(DEAD, now_ns)] * len(questions)
        return tickets

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class RequestReceiver:
    """What is asked: the end of `policy`. One that starts takes the place of one that is there."""

    def __init__(self, runtime_dir: Path) -> None:
        self._folder = runtime_dir / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with _short(self._folder) as folder:
            fresh = f"{folder}/{SOCKET}-{os.getpid()}-{secrets.token_hex(4)}"
            self._socket.bind(fresh)
            Path(fresh).rename(f"{folder}/{SOCKET}")

    def receive(self, timeout_s: float) -> list[PolicyRequest]:
        """Return the requests that wait, some of them if they are many, or those that come first within
        `timeout_s` seconds."""
        requests: list[PolicyRequest] = []
        self._socket.settimeout(timeout_s)
        with suppress(TimeoutError, BlockingIOError):
            while len(requests) < MOST_TOGETHER:
                datagram = self._socket.recv(LARGEST_BYTES)
                # Who can write here may as well end the process: what is malformed is left out.
                with suppress(ValueError):
                    requests += requests_in(datagram)
                self._socket.settimeout(0.0)
        return requests

    def close(self) -> None:
        """Close the socket; who asks afterwards is told that nobody listens."""
        self._socket.close()


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a path of the folder that is short enough for the address of a socket."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
