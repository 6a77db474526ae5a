"""A real Redis on a free port, which forgets nothing that it has answered."""

import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError

from tests.support.tools import tool
from tests.support.waiting import holds_within


class RedisServer:
    """A server with an append-only file that is synced before anything is answered, and a password."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = tool("redis-server")
        self.password = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What messages may say of it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        """The same with the password."""
        return self.address.replace("//", f"//:{self.password}@")

    @property
    def client(self) -> Any:
        """A connection beside the store."""
        return Redis.from_url(self.url, protocol=2)

    def start(self) -> None:
        """Start it with what it had, and wait until it answers."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._folder,
            "requirepass": self.password,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "logfile": self._folder / "redis.log",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._program, *flags], stdout=subprocess.DEVNULL)
        assert holds_within(30.0, self._answers), (self._folder / "redis.log").read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(30.0)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "redis.log").read_text()
        try:
            with self.client as client:
                return bool(client.ping())
        except ConnectionError:
            return False


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A server that serves, until the end. The test is skipped where Debian's `redis-server` is missing."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
