"""The HTTP connections of one thread."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import gevent.monkey


class ThreadConnections:
    """tritonclient's HTTP clients that one thread uses, one for each of our clients.

    They close when the thread ends, and with them the thread's gevent hub, which nothing else frees: it
    would leave four file descriptors behind for each thread that ever sent a request.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._triton_by_client: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
        # Where gevent has replaced threading, "threads" are greenlets that share one hub.
        ends_with_thread = not gevent.monkey.is_module_patched("threading")
        is_main = threading.current_thread() is threading.main_thread()
        self._hub = gevent.get_hub() if ends_with_thread and not is_main else None

    def get(self, client: object, connect: Callable[[], Any]) -> Any:
        """Return the connection of `client` in this thread, made by `connect` on first use."""
        triton = self._triton_by_client.get(client)
        if triton is None:
            triton = self._triton_by_client[client] = connect()
        return triton

    def drop(self, client: object) -> None:
        """Close the connection of `client` in this thread, if there is one."""
        triton = self._triton_by_client.pop(client, None)
        if triton is not None:
            triton.close()

    def __del__(self) -> None:
        if self.pid != os.getpid():
            # The child of a fork closes its copies of the sockets with the last references to them, which
            # the parent does not notice. The hub is that of the child's own thread.
            return
        for client in list(self._triton_by_client):
            self.drop(client)
        if self._hub is not None:
            self._hub.destroy()
            # gevent may have lost sight of the thread's hub before this runs; closing then made another.
            gevent.get_hub().destroy()


class _Local(threading.local):
    """Runs once in each thread that looks at it."""

    def __init__(self) -> None:
        self.connections = ThreadConnections()


_local = _Local()


def connections_of_this_thread() -> ThreadConnections:
    """Return the calling thread's connections.

    The child of a fork shares the sockets of the thread that forked, so it gets connections of its own.
    """
    if _local.connections.pid != os.getpid():
        gevent.reinit()
        _local.connections = ThreadConnections()
    return _local.connections
