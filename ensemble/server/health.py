"""What the launcher knows of its server's health, and the endpoint that tells it: `/livez`, `/readyz` and
`/metrics`."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ensemble.server.endpoints import Endpoints

SERVER = "server"
"""What an outage of the whole server is named by."""
RECOVERY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that does not serve."""

    what: str
    """A node's instance, a model, or the server."""
    reason: str
    detail: str
    since: float
    """Unix seconds."""
    began: float
    """The same by `time.monotonic()`."""

    def as_fields(self) -> dict[str, str]:
        """Return it as JSON has it."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="milliseconds")
        told = {"what": self.what, "reason": self.reason, "since": since}
        return told | ({"detail": self.detail} if self.detail else {})


class Health:
    """Outages at this time, and counts of all that were. Any thread may use it."""

    def __init__(self) -> None:
        """Ready, until an outage begins."""
        self._lock = threading.Lock()
        self._outages: dict[str, Outage] = {}
        self.metrics = CollectorRegistry()
        self._ready = Gauge("unipinrec_ready", "1 while nothing is known not to serve", registry=self.metrics)
        self._ready.set(1)
        text = "Outages that began, by what did not serve: a model, or the server"
        self._began = Counter("unipinrec_outages", text, ["what", "reason"], registry=self.metrics)
        text = "Attempts to end an outage, by what was started anew"
        self._starts = Counter("unipinrec_restarts", text, ["what", "result"], registry=self.metrics)
        text = "Seconds from when an outage was found to its end"
        self._seconds = Histogram(
            "unipinrec_outage_seconds", text, ["what"], buckets=RECOVERY_S, registry=self.metrics
        )
        text = "Canaries that failed"
        self._canaries = Counter("unipinrec_failed_canaries", text, registry=self.metrics)

    @property
    def outages(self) -> list[Outage]:
        """What does not serve, the oldest first."""
        with self._lock:
            return sorted(self._outages.values(), key=lambda outage: outage.began)

    @property
    def is_ready(self) -> bool:
        """Whether nothing is known not to serve."""
        return not self.outages

    def begin(self, what: str, reason: str, detail: str = "", *, model: str | None = None) -> None:
        """Note that something does not serve, if that is news. It is counted by reason, and by `model` where
        an instance of one is what does not serve."""
        with self._lock:
            if what in self._outages:
                return
            self._outages[what] = Outage(what, reason, detail, time.time(), time.monotonic())
            self._ready.set(0)
        self._began.labels(model or what, reason).inc()

    def end(self, what: str, *, model: str | None = None) -> None:
        """Note that it serves again."""
        with self._lock:
            outage = self._outages.pop(what, None)
            self._ready.set(not self._outages)
        if outage is not None:
            self._seconds.labels(model or what).observe(time.monotonic() - outage.began)

    def clear(self) -> None:
        """Forget what was known of a server that has ended."""
        for outage in self.outages:
            if outage.what != SERVER:
                self.end(outage.what)

    def started(self, what: str, *, well: bool) -> None:
        """Count an attempt to start something anew."""
        self._starts.labels(what, "served" if well else "failed").inc()

    def canary_failed(self) -> None:
        """Count a canary."""
        self._canaries.inc()

    def respond(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer a request, as WSGI wants it."""
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return []
        if path == "/metrics":
            answer: Iterable[bytes] = make_wsgi_app(self.metrics)(environ, start)
            return answer
        outages = self.outages
        bodies = {
            "/livez": (True, {"alive": True}),
            "/readyz": (not outages, {"ready": not outages, "outages": [o.as_fields() for o in outages]}),
        }
        if path not in bodies:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"allowed: /livez, /readyz, /metrics\n"]
        good, body = bodies[path]
        status = "200 OK" if good else "503 Service Unavailable"
        start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps(body).encode() + b"\n"]


@contextmanager
def told_at(health: Health, endpoints: Endpoints) -> Iterator[None]:
    """Answer at the health port while the block runs."""
    server = make_server(
        endpoints.address, endpoints.health_port, health.respond, ThreadingWSGIServer, _SilentHandler
    )
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _SilentHandler(WSGIRequestHandler):
    timeout = 5.0
    """Seconds for which a caller may send nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request: probes come every few seconds."""
