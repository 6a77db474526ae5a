"""A receiver of OpenTelemetry spans over HTTP, as a collector is one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/v1/traces"


@dataclass(frozen=True)
class Span:
    """One span of a trace; times are in nanoseconds since 1970."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    start_ns: int
    end_ns: int


class SpanReceiver:
    """Keeps every span that was sent to `url`."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receive(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}{PATH}"

    def traces(self) -> dict[str, list[Span]]:
        """The spans received so far by trace id, in the order of their start."""
        spans = sorted(self._spans, key=lambda span: span.start_ns)
        return {trace: [s for s in spans if s.trace == trace] for trace in {s.trace for s in spans}}

    def _receive(self, path: str, body: bytes) -> None:
        # Triton's exporter sends the JSON form of the protocol, not the protobuf one.
        if path == PATH:
            self._spans += [
                span for resource in json.loads(body)["resourceSpans"] for span in _spans(resource)
            ]


@contextmanager
def receiving() -> Iterator[SpanReceiver]:
    """A receiver on a free port of loopback."""
    receiver = SpanReceiver()
    thread = threading.Thread(target=receiver.http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.http.shutdown()
        thread.join()
        receiver.http.server_close()


def _spans(resource: dict[str, Any]) -> Iterator[Span]:
    attributes = {a["key"]: a["value"] for a in resource["resource"]["attributes"]}
    for scope in resource["scopeSpans"]:
        for span in scope["spans"]:
            yield Span(
                service=attributes["service.name"]["stringValue"],
                trace=span["traceId"],
                id=span["spanId"],
                parent=span.get("parentSpanId", ""),
                name=span["name"],
                start_ns=int(span["startTimeUnixNano"]),
                end_ns=int(span["endTimeUnixNano"]),
            )
