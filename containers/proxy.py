"""HAProxy with the committed configuration, in front of servers on loopback."""

import csv
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

from ensemble.server.endpoints import LOOPBACK, Endpoints, free_ports
from ensemble.settings import ROOT

CONFIGURATION = ROOT / "docker" / "proxy" / "haproxy.cfg"
POLL_S = 0.05


class ProxyError(RuntimeError):
    """The proxy cannot run, or does not do in time what it should; one line."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Access:
    """One line of the proxy's log."""

    user: str
    """The routing key that came with the request; `-` for none."""
    frontend: str
    """`grpc~` or `https~`; the tilde stands for TLS."""
    replica: str
    """Where the request went; `<NOSRV>` for nowhere."""
    status: int
    """HTTP status of the answer; gRPC's own status comes after it and is not here."""
    retries: int
    """Connections tried beyond the first."""


class Proxy:
    """A HAProxy that runs while its context lasts."""

    def __init__(self, replicas: Sequence[Endpoints], folder: Path) -> None:
        """Prepares a certificate and keys in `folder`; `replicas` are the three servers.

        Raises:
            ProxyError: HAProxy or openssl is not installed.
        """
        for tool in ("haproxy", "openssl"):
            if find_tool(tool) is None:
                raise ProxyError(f"{tool} is not installed; run: apt-get install {tool}")
        self.certificate = folder / "certificate.pem"
        self._log = folder / "proxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        https, grpc, stats, admin = free_ports(4)
        self.http_url, self.grpc_url = f"localhost:{https}", f"localhost:{grpc}"
        self.stats_address = f"{LOOPBACK}:{stats}"
        self.api_key, self.admin_key = secrets.token_hex(32), secrets.token_hex(32)
        self._environment = {
            "UNIPINREC_PROXY_KEYS": str(_write_keys(folder / "api-keys", self.api_key)),
            "UNIPINREC_PROXY_ADMIN_KEYS": str(_write_keys(folder / "admin-keys", self.admin_key)),
            "UNIPINREC_PROXY_CERTIFICATE": str(_make_certificate(folder, self.certificate)),
            "UNIPINREC_PROXY_HTTP": f"{LOOPBACK}:{https}",
            "UNIPINREC_PROXY_GRPC": f"{LOOPBACK}:{grpc}",
            "UNIPINREC_PROXY_STATS": self.stats_address,
            "UNIPINREC_PROXY_ADMIN": f"{LOOPBACK}:{admin}",
        }
        self._admin = admin
        for number, replica in enumerate(replicas, start=1):
            for protocol, port in (("HTTP", replica.http_port), ("GRPC", replica.grpc_port)):
                self._environment[f"UNIPINREC_REPLICA_{number}_{protocol}"] = f"{replica.address}:{port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a caller sends with each request."""
        return {"unipinrec-api-key": self.api_key}

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(find_tool("haproxy")), "-db", "-f", str(CONFIGURATION)],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def output(self) -> str:
        """All that the proxy has written: its log and its own messages."""
        return self._log.read_text()

    def accesses(self, since: int = 0) -> list[Access]:
        """Return the requests it has logged, but for the first `since`."""
        lines = [line for line in self.output.splitlines() if line.startswith('{"user"')]
        return [_access(line) for line in lines[since:]]

    def states(self) -> dict[str, str]:
        """Return how the proxy sees each server of each backend: `UP` for `grpc/replica-1`, say."""
        connection = HTTPConnection(self.stats_address, timeout=5)
        connection.request("GET", "/;csv")
        table = connection.getresponse().read().decode().removeprefix("# ")
        connection.close()
        rows = [row for row in csv.DictReader(table.splitlines()) if row["svname"].startswith("replica-")]
        return {f"{row['pxname']}/{row['svname']}": row["status"] for row in rows}

    def wait_for(self, server: str, status: str, timeout_s: float = 60.0) -> float:
        """Return the seconds until a server, as `http/replica-1`, has a status.

        Raises:
            ProxyError: it has not within `timeout_s`, or the proxy has ended.
        """
        began = time.monotonic()
        while True:
            if self._process is None or self._process.poll() is not None:
                raise ProxyError(f"proxy has ended: {self.output}")
            try:
                seen = self.states().get(server, "absent")
            except OSError as error:
                seen = str(error)
            # While checks fail or succeed, a status carries their count: `UP 1/2`.
            if seen == status:
                return time.monotonic() - began
            if time.monotonic() - began > timeout_s:
                raise ProxyError(f"{server} is {seen} after {timeout_s:g} s; wanted: {status}")
            time.sleep(POLL_S)

    def command(self, text: str) -> str:
        """Return the answer of its administrative socket to a command."""
        with socket.create_connection((LOOPBACK, self._admin), timeout=5) as connection:
            connection.sendall(f"{text}\n".encode())
            return connection.makefile().read()


def find_tool(name: str) -> str | None:
    """Return the path of an executable; Debian keeps HAProxy where only root's PATH looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _write_keys(path: Path, *keys: str) -> Path:
    """Write the digests of keys, as the proxy reads them."""
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    return path


def _make_certificate(folder: Path, certificate: Path) -> Path:
    """Write a certificate for localhost and its key into one file, as HAProxy wants them."""
    key, both = folder / "key.pem", folder / "server.pem"
    subprocess.run(
        [
            *(str(find_tool("openssl")), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _access(line: str) -> Access:
    entry = json.loads(line)
    return Access(
        user=entry["user"],
        frontend=entry["frontend"],
        replica=entry["replica"],
        status=entry["status"],
        retries=int(entry["retries"].lstrip("+")),
    )
