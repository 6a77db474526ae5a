"""How a launcher is told to roll out a bundle: HTTP over a socket in its runtime folder, for its user alone.

An answer is a line of JSON for each step, then one that says how it ended.
"""

import json
import logging
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from pydantic import ValidationError

from ensemble.server.control_client import DONE, FAILED, PROGRESS, SOCKET
from ensemble.server.rollout import Rollout, Tell
from ensemble.server.server_error import ServerError
from unipinrec.config import Config, first_fault

LARGEST_REQUEST = 1 << 16
PEER = struct.Struct("3i")

log = logging.getLogger(__name__)


class DeployRequest(Config):
    """What `deploy` is told."""

    bundle: Path
    """Folder, from the root on."""
    free_old: bool = False
    """Whether the nodes of the bundle before are unloaded at the end."""


class ControlServer(socketserver.ThreadingUnixStreamServer):
    """An HTTP server at a path, which only its user may open, with one application."""

    daemon_threads = True

    def __init__(self, path: Path, control: "Control") -> None:
        super().__init__(str(path), ControlHandler)
        path.chmod(0o600)
        self._control = control
        # What the handler asks of a WSGI server.
        self.base_environ = {"SERVER_NAME": SOCKET, "SERVER_PORT": "0", "SCRIPT_NAME": ""}

    def get_app(self) -> "Control":
        """Return the application."""
        return self._control

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its other end has no address, so it gets one."""
        connection, _ = super().get_request()
        return connection, (SOCKET, 0)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a process of this user is at the other end."""
        del client_address
        _, uid, _ = PEER.unpack(request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        return bool(uid == os.getuid())


class ControlHandler(WSGIRequestHandler):
    """A request over such a socket."""

    def log_message(self, format: str, *args: Any) -> None:
        """Leave the launcher's output to what it says itself."""
        log.debug(format, *args)


class Control:
    """The WSGI application: one address for each command."""

    def __init__(self, rollout: Rollout, report: Tell) -> None:
        """`report` gets the lines of progress too."""
        self._rollout = rollout
        self._report = report

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer with a line for each step. Once begun, a command goes on if its caller leaves."""
        command = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        try:
            length = min(int(environ.get("CONTENT_LENGTH") or 0), LARGEST_REQUEST)
            run = self._command(command, environ["wsgi.input"].read(length))
        except (ValueError, ValidationError) as error:
            said = first_fault(error) if isinstance(error, ValidationError) else str(error)
            start_response("400 Bad Request", [("Content-Type", "application/x-ndjson")])
            return [_line(FAILED, said)]
        start_response("200 OK", [("Content-Type", "application/x-ndjson")])
        lines: Queue[bytes] = Queue()
        threading.Thread(target=self._run, args=(run, lines), name="rollout", daemon=True).start()
        return _until_ended(lines)

    def _command(self, command: str, body: bytes) -> Callable[[Tell], None]:
        rollout = self._rollout
        if command == "POST /deploy":
            asked = DeployRequest.model_validate_json(body)
            return lambda tell: rollout.deploy(asked.bundle, tell, free_old=asked.free_old)
        commands = {
            "GET /status": lambda _: None,
            "POST /rollback": rollout.rollback,
            "POST /free": rollout.free,
        }
        if command not in commands:
            raise ValueError(f"asked for {command}; allowed: POST /deploy, {', '.join(commands)}")
        return commands[command]

    def _run(self, run: Callable[[Tell], None], lines: "Queue[bytes]") -> None:
        def tell(line: str) -> None:
            self._report(line)
            lines.put(_line(PROGRESS, line))

        try:
            run(tell)
            lines.put(_line(DONE, self._rollout.status()))
        except (ServerError, OSError) as error:
            self._report(f"Refused: {error}")
            lines.put(_line(FAILED, str(error)))
        except Exception as error:
            log.exception("a command failed")
            lines.put(_line(FAILED, f"{type(error).__name__}: {error}"))


@contextmanager
def listening(runtime_dir: Path, control: Control) -> Iterator[None]:
    """Take commands at the socket in a runtime folder while the block runs."""
    with ControlServer(runtime_dir / SOCKET, control) as server:
        thread = threading.Thread(target=server.serve_forever, name="control", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def _until_ended(lines: "Queue[bytes]") -> Iterator[bytes]:
    ended = False
    while not ended:
        line = lines.get()
        ended = PROGRESS not in json.loads(line)
        yield line


def _line(kind: str, said: Any) -> bytes:
    return json.dumps({kind: said}).encode() + b"\n"
