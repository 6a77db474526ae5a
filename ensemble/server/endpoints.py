"""The address and the ports at which the embedded server listens."""

import errno
import ipaddress
import random
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ensemble.server.server_error import ServerError

LOOPBACK = "127.0.0.1"
UNASSIGNED_PORTS = range(10_000, 32_000)


@dataclass(kw_only=True, slots=True, frozen=True)
class Endpoints:
    """Where the server listens."""

    address: str = LOOPBACK
    """IPv4 address to bind. The server authenticates nobody: leave loopback only behind a proxy."""
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    health_port: int = 8003
    """Where the launcher itself tells of the server's health."""

    @classmethod
    def free(cls) -> Self:
        """Return loopback ports that nobody listens on; another process may take them before the server."""
        return cls.free_for(1)[0]

    @classmethod
    def free_for(cls, servers: int) -> list[Self]:
        """Return such ports for so many servers, all of them different."""
        ports = iter(free_ports(4 * servers))
        return [
            cls(http_port=http, grpc_port=grpc, metrics_port=metrics, health_port=health)
            for http, grpc, metrics, health in zip(ports, ports, ports, ports, strict=True)
        ]

    @property
    def ports(self) -> dict[str, int]:
        """All ports by the name of the option that sets each."""
        return {**self.triton_ports, "--health-port": self.health_port}

    @property
    def triton_ports(self) -> dict[str, int]:
        """The ports of Triton's own, by the name of its option."""
        return {
            "--http-port": self.http_port,
            "--grpc-port": self.grpc_port,
            "--metrics-port": self.metrics_port,
        }

    @property
    def host(self) -> str:
        """An address at which this machine itself reaches the server."""
        return LOOPBACK if ipaddress.IPv4Address(self.address).is_unspecified else self.address

    @property
    def grpc_url(self) -> str:
        """`host:port`, as tritonclient takes it."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Base of the HTTP addresses."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def health_url(self) -> str:
        """Base of the launcher's addresses about the server's health."""
        return f"http://{self.host}:{self.health_port}"

    def check(self) -> None:
        """Raises `ServerError` for an address not IPv4 or not ours, or a port named twice or taken."""
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError:
            raise ServerError(
                f"--address is {self.address}; allowed: an IPv4 address, as 127.0.0.1"
            ) from None
        used: dict[int, str] = {}
        for option, port in self.ports.items():
            if port in used:
                raise ServerError(f"{option} is {port}; allowed: a port other than that of {used[port]}")
            used[port] = option
            try:
                socket.create_server((self.address, port)).close()
            except OSError as error:
                raise ServerError(self._reason(option, port, error)) from None

    def closed_port(self) -> str | None:
        """Return which of Triton's ports refuses a connection, None when all are open."""
        for option, port in self.triton_ports.items():
            try:
                socket.create_connection((self.host, port), timeout=1.0).close()
            except OSError as error:
                return f"{option} {port} is not open: {error.strerror}"
        return None

    def _reason(self, option: str, port: int, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return f"{option} is {port}, which another process listens on; stop it or pass another {option}"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"--address is {self.address}; allowed: an address of this machine"
        return f"{option} is {port}; it cannot be opened: {error.strerror}"


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on, all of them different.

    They are below those that Linux gives to outgoing connections, one of which might take a port before it is
    listened on.
    """
    ports: list[int] = []
    for port in random.sample(UNASSIGNED_PORTS, len(UNASSIGNED_PORTS)):
        with suppress(OSError), socket.create_server((LOOPBACK, port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise ServerError(
        f"of the ports {UNASSIGNED_PORTS[0]} to {UNASSIGNED_PORTS[-1]} fewer than {count} are free"
    )
