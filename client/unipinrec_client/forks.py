"""What a fork leaves of gRPC in the child."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_REMEDY = "fork while no call is under way, start the process with `spawn`, or use HttpClient"
_ASYNCIO_REMEDY = "fork before the first use, start the process with `spawn`, or use another client"


@dataclass(slots=True)
class _GrpcUse:
    """How this process uses gRPC, and what the use before a fork has broken."""

    calls: set[object] = field(default_factory=set)
    """Calls that threads are waiting for. A set needs no lock, which a fork could leave taken for ever."""
    broken_by: str = ""
    """Why blocking calls would never be answered; empty if they are."""
    with_asyncio: bool = False
    asyncio_broken_by: str = ""
    """Why calls of asyncio would never be answered; empty if they are."""

    def begin_in_child(self) -> None:
        if self.calls:
            self.broken_by = (
                f"calls under way at a fork are {len(self.calls)}; allowed with gRPC: 0; {_REMEDY}"
            )
        if self.with_asyncio:
            self.asyncio_broken_by = f"gRPC was used with asyncio before a fork; {_ASYNCIO_REMEDY}"
        self.calls.clear()
        self.with_asyncio = False


_use = _GrpcUse()
os.register_at_fork(after_in_child=_use.begin_in_child)


@contextmanager
def grpc_call() -> Iterator[None]:
    """Note that the thread is in a blocking call."""
    call = object()
    _use.calls.add(call)
    try:
        yield
    finally:
        _use.calls.discard(call)


def grpc_broken_by() -> str:
    """Return why blocking calls of this process are never answered; empty if they are.

    gRPC gets ready for a fork only while no thread is calling. Otherwise the child's calls, and closing an
    inherited connection, last for ever, whatever their deadlines.
    """
    return _use.broken_by


def check_grpc() -> None:
    """Raise `RuntimeError` where blocking calls are never answered."""
    if reason := grpc_broken_by():
        raise RuntimeError(reason)


def check_grpc_asyncio() -> None:
    """Note that gRPC is used with asyncio; raise `RuntimeError` in a child of a process that did so.

    One thread reads the answers for all event loops of a process. A child does not have it, and gRPC starts
    no other.
    """
    if _use.asyncio_broken_by:
        raise RuntimeError(_use.asyncio_broken_by)
    _use.with_asyncio = True
