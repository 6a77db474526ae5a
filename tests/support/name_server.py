"""A name server on loopback whose names a test takes away and gives back."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

ADDRESS_RECORD, INTERNET = 1, 1
NO_SUCH_NAME = 3
HEADER_BYTES = 12


class NameServer:
    """Answers over UDP while its context lasts: 127.0.0.1 for the names in `names`, which may change."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._answer_all)

    @property
    def address(self) -> str:
        """`host:port`, as HAProxy takes it."""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _answer_all(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(1024)
            if not query:
                return
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        """The answer to one question (RFC 1035, section 4.1), whose name the record points back at."""
        name, end = _name_at(query, HEADER_BYTES)
        (kind,) = struct.unpack_from("!H", query, end)
        known = name in self.names
        record = b""
        if known and kind == ADDRESS_RECORD:
            at = 0xC000 | HEADER_BYTES
            record = struct.pack("!HHHIH", at, ADDRESS_RECORD, INTERNET, 1, 4) + socket.inet_aton("127.0.0.1")
        flags = 0x8400 | (0 if known else NO_SUCH_NAME)
        header = query[:2] + struct.pack("!HHHHH", flags, 1, 1 if record else 0, 0, 0)
        return header + query[HEADER_BYTES : end + 4] + record


def _name_at(message: bytes, at: int) -> tuple[str, int]:
    """The name that starts at a byte, and the byte behind it."""
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1
