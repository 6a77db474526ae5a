"""A Milvus server on loopback, as `milvus-lite` runs it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.support.waiting import holds_within


class MilvusServer(NamedTuple):
    """Where it is."""

    url: str
    process: psutil.Process


@contextmanager
def milvus_server(folder: Path, port: int | None = None) -> Iterator[MilvusServer]:
    """Run a server over a folder that it keeps its data in."""
    port = port or _free_port()
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder)]
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        assert holds_within(60, lambda: _listens(port)), "the server does not listen"
        yield MilvusServer(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(0.2)
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
