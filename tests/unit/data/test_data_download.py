"""A file comes over HTTPS, through a proxy where one is named; what goes wrong is one clear error."""

import base64
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import IO

import pytest

from tests.support.tools import tool
from unipinrec.data import download
from unipinrec.data.download import DownloadError, download_https, download_wheel

HOST = "files.example"
"""A name that nothing resolves: it is reached through a proxy alone."""
VARIABLES = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY")


class Files(SimpleHTTPRequestHandler):
    """Sends the files of a folder, of those named `cut` only a part."""

    def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:
        content = source.read()
        outputfile.write(content[:3] if "cut" in self.path else content)

    def log_message(self, *_: object) -> None:
        pass


class Proxy(ThreadingTCPServer):
    """Connects whatever host is asked for to one port of this machine, if the password is right."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []
        self.admitted: str | None = None
        super().__init__(("127.0.0.1", 0), Tunnel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Tunnel(StreamRequestHandler):
    """One connection to the proxy."""

    server: Proxy

    def handle(self) -> None:
        request = self.rfile.readline().decode()
        headers = dict(line.decode().rstrip().split(": ", 1) for line in iter(self.rfile.readline, b"\r\n"))
        self.server.asked.append(request.split(" HTTP/")[0])
        admitted = self.server.admitted
        expected = f"Basic {base64.b64encode(admitted.encode()).decode()}" if admitted else None
        if headers.get("Proxy-Authorization") != expected:
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.server.port)) as host:
            back = threading.Thread(target=_copy, args=(host, self.connection), daemon=True)
            back.start()
            _copy(self.connection, host)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    # Either side may hang up at any time.
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for both names of the host, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    openssl = tool("openssl")
    names = f"subjectAltName=DNS:{HOST},DNS:localhost"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    command = [openssl, "req", "-x509", *made, "-subj", f"/CN={HOST}", "-addext", names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


def running(server: ThreadingTCPServer) -> Iterator[None]:
    thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def port(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the host listens, over TLS."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.zip").write_bytes(b"ratings")
    (folder / "cut.zip").write_bytes(b"ratings")
    (folder / "moved").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    for _ in running(server):
        yield server.server_address[1]


@pytest.fixture
def proxy(port: int, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that `https_proxy` names."""
    server = Proxy(port)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("https_proxy", f"http://{server.address}")
    for _ in running(server):
        yield server


def test_a_file_comes_through_the_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE", 3)
    assert download_https(HOST, "/a.zip") == b"ratings"
    assert proxy.asked == [f"CONNECT {HOST}:443"]


def test_a_proxy_may_want_a_password(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.admitted = "ann:secret"
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:secret@{proxy.address}")
    assert download_https(HOST, "/a.zip") == b"ratings"


def test_a_host_of_no_proxy_is_asked_directly(
    proxy: Proxy, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "example.org,localhost")
    assert download_https(f"localhost:{port}", "/a.zip") == b"ratings"
    assert proxy.asked == []


def test_a_proxy_that_refuses_is_named_without_its_password(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.admitted = "ann:secret"
    monkeypatch.setenv("https_proxy", f"http://ann:wrong@{proxy.address}")
    with pytest.raises(DownloadError) as error:
        download_https(HOST, "/a.zip")
    assert str(error.value) == (
        f"{HOST} does not answer through https_proxy {proxy.address}: "
        "Tunnel connection failed: 407 Proxy Authentication Required"
    )


@pytest.mark.parametrize("address", ["http://127.0.0.1:high", "http://[::1", "http://127.0.0.1:1"])
@pytest.mark.usefixtures("proxy")
def test_a_proxy_that_is_none_is_a_download_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(DownloadError, match=rf"^{HOST} does not answer through https_proxy .+: .+$"):
        download_https(HOST, "/a.zip")


def test_without_a_proxy_it_is_said_that_there_is_none(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("https_proxy")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(DownloadError) as error:
        download_https(host, "/a.zip")
    assert str(error.value) == (
        f"{host} does not answer directly (https_proxy names no proxy for it): [Errno 111] Connection refused"
    )
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("path", "answer"), [("/none.zip", "404 File not found"), ("/moved", "301 Moved Permanently")]
)
@pytest.mark.usefixtures("proxy")
def test_another_status_is_refused(path: str, answer: str) -> None:
    with pytest.raises(DownloadError, match=f"^{HOST} answered {answer}; allowed: 200$"):
        download_https(HOST, path)


@pytest.mark.usefixtures("proxy")
def test_a_part_of_a_file_is_refused() -> None:
    with pytest.raises(DownloadError, match=f"^{HOST} broke off after 3 bytes; allowed: the whole 7$"):
        download_https(HOST, "/cut.zip")


@pytest.mark.usefixtures("proxy")
def test_a_certificate_without_a_known_authority_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadError, match=f"^{HOST} does not answer through .*CERTIFICATE_VERIFY_FAILED"):
        download_https(HOST, "/a.zip")


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("LARGEST_FILE", 6, f"^{HOST} sends over 6 bytes; allowed: at most that$"),
        ("TRANSFER_SECONDS", -1, f"^{HOST} takes over -1 seconds; allowed: at most that$"),
    ],
)
@pytest.mark.usefixtures("proxy")
def test_too_large_or_too_slow_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, message: str
) -> None:
    monkeypatch.setattr(download, limit, value)
    with pytest.raises(DownloadError, match=message):
        download_https(HOST, "/a.zip")


@pytest.mark.usefixtures("proxy")
def test_a_silent_proxy_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(download, "HOST_SECONDS", 0.05)
        with pytest.raises(DownloadError, match=r"timed out$"):
            download_https(HOST, "/a.zip")


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
