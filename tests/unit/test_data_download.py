"""A source that does not answer is one clear error, whatever went wrong."""

import http.client
import io
import socket
import subprocess
from pathlib import Path

import pytest

from unipinrec.data import download
from unipinrec.data.download import DownloadError, download_https, download_wheel


class Answer:
    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.reason, self._body = status, "Moved", io.BytesIO(body)

    def read(self, size: int) -> bytes:
        return self._body.read(size)


class Connection:
    """Stands in for an HTTPS connection; remembers what was asked of it."""

    asked: tuple[str, int, str, str]
    answer: Answer

    def __init__(self, host: str, timeout: int) -> None:
        self._host, self._timeout = host, timeout

    def request(self, method: str, path: str) -> None:
        Connection.asked = (self._host, self._timeout, method, path)

    def getresponse(self) -> Answer:
        return Connection.answer

    def close(self) -> None:
        pass


def test_a_file_is_asked_for_with_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client, "HTTPSConnection", Connection)
    monkeypatch.setattr(Connection, "answer", Answer(200, b"ratings"), raising=False)
    monkeypatch.setattr(download, "PIECE", 3)
    assert download_https("files.example", "/a.zip") == b"ratings"
    assert Connection.asked == ("files.example", 5, "GET", "/a.zip")


def test_another_status_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client, "HTTPSConnection", Connection)
    monkeypatch.setattr(Connection, "answer", Answer(301, b""), raising=False)
    with pytest.raises(DownloadError, match=r"^files.example answered 301 Moved; allowed: 200$"):
        download_https("files.example", "/a.zip")


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("LARGEST_FILE", 6, r"^files.example sends over 6 bytes; allowed: at most that$"),
        ("TRANSFER_SECONDS", -1, r"^files.example takes over -1 seconds; allowed: at most that$"),
    ],
)
def test_too_large_or_too_slow_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, message: str
) -> None:
    monkeypatch.setattr(http.client, "HTTPSConnection", Connection)
    monkeypatch.setattr(Connection, "answer", Answer(200, b"ratings"), raising=False)
    monkeypatch.setattr(download, limit, value)
    with pytest.raises(DownloadError, match=message):
        download_https("files.example", "/a.zip")


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), http.client.IncompleteRead(b""), socket.gaierror()]
)
def test_a_broken_connection_is_a_download_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(_connection: Connection) -> Answer:
        raise error

    monkeypatch.setattr(http.client, "HTTPSConnection", Connection)
    monkeypatch.setattr(Connection, "getresponse", broken)
    with pytest.raises(DownloadError, match=r"^files.example does not answer: "):
        download_https("files.example", "/a.zip")


def test_the_wheel_pip_leaves_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "toy-1.0-py3-none-any.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", pip)
    assert download_wheel("toy==1.0") == b"wheel"
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(commands[0])


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "WARNING: slow\nERROR: No matching distribution\n", "failed: ERROR: No matching distribution$"),
        (0, "", "failed: no wheel$"),
    ],
)
def test_pip_without_a_wheel_is_a_download_error(
    monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, message: str
) -> None:
    done = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(DownloadError, match=f"^pip download toy==1.0 {message}"):
        download_wheel("toy==1.0")


def test_a_slow_index_is_a_download_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(command: list[str], **_options: object) -> None:
        raise subprocess.TimeoutExpired(command, 120)

    monkeypatch.setattr(download.subprocess, "run", slow)
    with pytest.raises(DownloadError, match=r"^pip download toy==1.0 took over 120 seconds$"):
        download_wheel("toy==1.0")
