"""Files from the network: over HTTPS from a host, or a wheel from the configured package index."""

import http.client
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

HOST_SECONDS = 5
"""Seconds that a host may take to connect, and to send each piece, before another source is tried."""
INDEX_SECONDS = 120
TRANSFER_SECONDS = 600
"""Seconds that a whole file may take."""
LARGEST_FILE = 256 * 2**20
"""Bytes; a file is held in memory."""
PIECE = 2**20

Report = Callable[[str], None]
"""Takes a line about each step."""


class DownloadError(Exception):
    """A source that did not answer, or not with the file."""


def download_https(host: str, path: str) -> bytes:
    """Return the body at `https://host/path`.

    It is asked for through the proxy that `https_proxy` names, unless `no_proxy` has the host.

    Raises `DownloadError` if the host or the proxy is unknown or slow, or answers with a status other than
    200, a part of the file or a larger file than `LARGEST_FILE`.
    """
    deadline = time.monotonic() + TRANSFER_SECONDS
    opener = urllib.request.build_opener(_Unmoved)
    try:
        with opener.open(f"https://{host}{path}", timeout=HOST_SECONDS) as response:
            announced = response.length
            body = b"".join(_pieces(response, host, deadline))
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{host} answered {error.code} {error.reason}; allowed: 200") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DownloadError(f"{host} does not answer {_way_to(host)}: {reason}") from error
    if announced not in (None, len(body)):
        raise DownloadError(f"{host} broke off after {len(body)} bytes; allowed: the whole {announced}")
    return body


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which could lead away from HTTPS."""

    def redirect_request(self, *_args: object) -> None:
        return None


def _way_to(host: str) -> str:
    """How a host is reached; a proxy without the password that its address may have."""
    proxy = urllib.request.getproxies().get("https")
    if proxy is None or urllib.request.proxy_bypass(host):
        return "directly (https_proxy names no proxy for it)"
    return f"through https_proxy {proxy.rsplit('@', 1)[-1]}"


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
    """Return the wheel of a pinned requirement, without its dependencies; it is not installed.

    Raises `DownloadError` if pip is missing or finds no such wheel.
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
