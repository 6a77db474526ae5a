"""Requests over HTTP as they are, without a client that knows the server or a proxy of the environment."""

import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit


def exchange(
    method: str,
    url: str,
    body: str | bytes | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Return status and content of the answer."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection = (
        HTTPConnection(parts.netloc, timeout=10)
        if context is None
        else HTTPSConnection(parts.netloc, timeout=10, context=context)
    )
    with closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
