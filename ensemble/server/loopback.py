"""A server on free loopback ports, for what measures it or tries it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import canaries_of, require_bundle
from ensemble.server.server_error import ServerKilledError
from ensemble.settings import ServingSettings

CANARY_TIMEOUT_S = 30.0


@contextmanager
def serve_on_loopback(
    settings: ServingSettings,
    *,
    model_repository: Path = MODEL_REPOSITORY,
    baseline: bool = False,
    profile: str | None = None,
    log_path: Path | None = None,
    start_timeout_s: float | None = None,
) -> Iterator[EmbeddedServer]:
    """Serve `settings.bundle` while the block runs, from the first answer of every ensemble on.

    Arguments are those of `EmbeddedServer`; without `start_timeout_s` the settings say how long a start may
    take.

    Raises:
        ServerError: there is no bundle, or the server does not start.
    """
    require_bundle(settings.bundle)
    server = EmbeddedServer(
        model_repository=model_repository,
        settings=settings.model_copy(update={"bundle": settings.bundle.resolve()}),
        endpoints=Endpoints.free(),
        baseline=baseline,
        profile=profile,
        log_path=log_path,
    )
    with server:
        start(server, start_timeout_s)
        yield server


def start(server: EmbeddedServer, timeout_s: float | None) -> None:
    """Start a server, once more where it ends itself meanwhile, and wait until it answers. Raises
    `ServerError` if it does not within `timeout_s` seconds, by default the settings' `load_timeout_s`."""
    try:
        _start_once(server, timeout_s)
    except ServerKilledError:
        # Triton 2.51 rarely does so: boost's lock_exception.
        server.stop()
        _start_once(server, timeout_s)


def _start_once(server: EmbeddedServer, timeout_s: float | None) -> None:
    server.start()
    for canary in canaries_of(server, CANARY_TIMEOUT_S):
        server.wait_until_serving(canary, timeout_s)
