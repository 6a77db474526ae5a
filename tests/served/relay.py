"""A way to the server on which everything can stop for a while, as if the server were paused.

Signals would pause the server itself, but Triton's processes share locks with deadlines in wall-clock time:
stopped in the middle of one, they end when they go on.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Relay:
    """Carries connections to `127.0.0.1:port` from a free port of its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    @contextmanager
    def stalled(self, after_s: float, for_s: float) -> Iterator[None]:
        """Some time into the block, nothing passes in either direction for a while."""

        def stall() -> None:
            time.sleep(after_s)
            self._flowing.clear()
            time.sleep(for_s)
            self._flowing.set()

        thread = threading.Thread(target=stall)
        thread.start()
        yield
        thread.join()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((caller, server), (server, caller)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                self._flowing.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()
