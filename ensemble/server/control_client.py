"""The other end of a launcher's control socket."""

import glob
import json
import os
import re
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ensemble.server.server_error import ServerError

SOCKET = "control"
"""In the runtime folder."""
PROGRESS, DONE, FAILED = "progress", "done", "error"
"""Key of each line of an answer."""


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def find_control(runtime_dir: Path) -> Path:
    """Return the socket of the launcher whose runtime folder is, or begins with, `runtime_dir`. Raises
    `ServerError` if there is none of this user's, or more than one."""
    ours = re.compile(re.escape(runtime_dir.name) + r"-\d+-[0-9a-f]{8}")
    beside = runtime_dir.parent.glob(f"{glob.escape(runtime_dir.name)}-*/{SOCKET}")
    found = [path for path in (runtime_dir / SOCKET, *sorted(beside)) if _is_open(path)]
    found = [path for path in found if path.parent == runtime_dir or ours.fullmatch(path.parent.name)]
    if not found:
        raise ServerError(
            f"no server of this user has its runtime folder at {runtime_dir}-…; start one: "
            "`unipinrec serve`, or pass its --runtime-dir"
        )
    if len(found) > 1:
        folders = ", ".join(str(path.parent) for path in found)
        raise ServerError(f"several servers run; allowed: --runtime-dir with one of {folders}")
    return found[0]


def command(
    control: Path, name: str, body: dict[str, Any] | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Ask a launcher for a command, without a `body` for its status, and return how its bundles stand then.
    `tell` gets a line for each step. Raises `ServerError` if it is refused or the launcher ends."""
    connection = _Connection(control)
    try:
        method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, f"/{name}", sent)
        for line in connection.getresponse():
            ((kind, said),) = json.loads(line).items()
            if kind == PROGRESS:
                tell(said)
            elif kind == DONE:
                return dict(said)
            else:
                raise ServerError(str(said))
    except (OSError, HTTPException) as error:
        raise ServerError(f"the server at {control.parent} does not answer: {error}") from error
    finally:
        connection.close()
    raise ServerError(
        f"the server at {control.parent} ended before {name} did; `unipinrec status` tells more"
    )


def _is_open(path: Path) -> bool:
    """Whether a launcher of this user listens there; a killed one leaves its socket."""
    try:
        if path.stat().st_uid != os.getuid():
            return False
        with socket.socket(socket.AF_UNIX) as tried:
            tried.connect(str(path))
    except OSError:
        return False
    return True
