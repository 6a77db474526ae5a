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
    """Port of inference over HTTP."""
    grpc_port: int = 8001
    """Port of inference over gRPC."""
    metrics_port: int = 8002
    """Port of the Prometheus metrics."""

    @classmethod
    def free(cls) -> Self:
        """Loopback ports that nobody listens on; another process may take one before the server does."""
        return cls.free_for(1)[0]

    @classmethod
    def free_for(cls, servers: int) -> list[Self]:
        """Such ports for so many servers, all of them different."""
        ports = iter(free_ports(3 * servers))
        threes = zip(ports, ports, ports, strict=True)
        return [
            cls(address=LOOPBACK, http_port=http, grpc_port=grpc, metrics_port=metrics)
            for http, grpc, metrics in threes
        ]

    @property
    def ports(self) -> dict[str, int]:
        """The ports by the name of the option that sets each."""
        return {
            "--http-port": self.http_port,
            "--grpc-port": self.grpc_port,
            "--metrics-port": self.metrics_port,
        }

    def flags(self) -> list[str]:
        """The server's own options for these endpoints."""
        addresses = [f"--{name}-address={self.address}" for name in ("http", "grpc", "metrics")]
        return addresses + [f"{option}={port}" for option, port in self.ports.items()]


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all of them different.

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


def check_endpoints(endpoints: Endpoints) -> None:
    """Raises `ServerError` for an address that is not IPv4 or not ours, and for a port that is taken."""
    try:
        ipaddress.IPv4Address(endpoints.address)
    except ValueError:
        raise ServerError(
            f"--address is {endpoints.address}; allowed: an IPv4 address, as 127.0.0.1"
        ) from None
    used: dict[int, str] = {}
    for option, port in endpoints.ports.items():
        if port in used:
            raise ServerError(f"{option} is {port}; allowed: a port other than that of {used[port]}")
        used[port] = option
        _check_port(endpoints.address, option, port)


def _check_port(address: str, option: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of an earlier server that linger must not count as a server that listens.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ServerError(_port_message(address, option, port, error)) from None


def _port_message(address: str, option: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{option} is {port}, which another process listens on; stop it or pass another {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--address is {address}; allowed: an address of this machine"
    return f"{option} is {port}; it cannot be opened: {error.strerror}"
