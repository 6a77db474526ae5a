"""How a policy gets to know of a request: datagrams from `history`, which never wait and may get lost.

The policy is no step of the ensemble, since a step whose process is dead fails the request. So what it
is told and what it says go beside the graph, and a missing answer means static weights.

Shapes: N events.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator
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

NO_POLICY, DEAD, BUSY = 0, -1, -2
"""In place of a ticket's number: nothing was asked, nobody listens, or too many requests wait."""


class Ticket(NamedTuple):
    """Under which number a decision can be found, as `POLICY_TICKET` INT64 [2] carries it."""

    number: int
    """Above 0, or one of `NO_POLICY`, `DEAD`, `BUSY`."""
    asked_ns: int
    """`time.monotonic_ns()` of when it was asked for; all processes of a machine share that clock."""


NOTHING_ASKED = Ticket(NO_POLICY, 0)


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """What a policy is told of one user's request."""

    ticket: Ticket
    request_time: int
    surface: int
    history: History

    def to_bytes(self) -> bytes:
        """Return the request as a datagram."""
        history = self.history
        columns = (history.item_row_N, history.actions_N, history.timestamp_N, history.surface_N)
        header = (*self.ticket, self.request_time, self.surface, len(history))
        numbers: Int64s = np.concatenate([np.array(header, np.int64), *columns])
        return numbers.tobytes()

    @classmethod
    def from_bytes(cls, datagram: bytes) -> "PolicyRequest":
        """Return the request in a datagram. Raises `ValueError` if its size is not what it says."""
        numbers: Int64s = np.frombuffer(datagram, np.int64)
        if len(numbers) < HEADER or len(numbers) != HEADER + COLUMNS * numbers[HEADER - 1]:
            raise ValueError(f"a request of {len(datagram)} bytes; allowed: a header and {COLUMNS} columns")
        number, asked_ns, request_time, surface, _ = numbers[:HEADER].tolist()
        item_row_N, actions_N, timestamp_N, surface_N = numbers[HEADER:].reshape(COLUMNS, -1)
        history = History(
            item_row_N=item_row_N, actions_N=actions_N, timestamp_N=timestamp_N, surface_N=surface_N
        )
        return cls(Ticket(number, asked_ns), request_time, surface, history)


class RequestSender:
    """What asks: the end of `history`."""

    def __init__(self, runtime_dir: Path) -> None:
        self._folder = runtime_dir / FOLDER
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # Numbers of several senders, and of one before it was restarted, lie far apart.
        self._number = secrets.randbits(62)

    def ask(self, history: History, request_time: int, surface: int) -> Ticket:
        """Return the ticket of a decision that is asked for, or why none will come; never waits."""
        self._number += 1
        ticket = Ticket(self._number, time.monotonic_ns())
        try:
            with _short(self._folder) as folder:
                self._socket.sendto(
                    PolicyRequest(ticket, request_time, surface, history).to_bytes(), f"{folder}/{SOCKET}"
                )
        except BlockingIOError:
            return Ticket(BUSY, ticket.asked_ns)
        except OSError:
            return Ticket(DEAD, ticket.asked_ns)
        return ticket

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

    def receive(self, most: int, timeout_s: float) -> list[PolicyRequest]:
        """Return up to `most` requests that wait, or those that come first within `timeout_s` seconds."""
        requests: list[PolicyRequest] = []
        self._socket.settimeout(timeout_s)
        with suppress(TimeoutError, BlockingIOError):
            while len(requests) < most:
                datagram = self._socket.recv(LARGEST_BYTES)
                # Who can write here may as well end the process: what is malformed is left out.
                with suppress(ValueError):
                    requests.append(PolicyRequest.from_bytes(datagram))
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
