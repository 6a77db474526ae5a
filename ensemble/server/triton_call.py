"""How `tritonserver` is called: its flags and its environment."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ensemble.nodes.contract import ADMIN_HEADER
from ensemble.server.endpoints import Endpoints
from ensemble.settings import ROOT, ServingSettings

# A request of 16 users with full inline histories stays under this; Triton grows a region in equal steps.
REGION_BYTES = 5 * 2**20
ADMIN_KEY = "unipinrec-admin"
ADMIN_PROTOCOLS = "model-repository,shared-memory,model-config,statistics,trace,logging"
# Triton takes all of it for HTTP connections that callers keep open, and once a node has died.
UNLOAD_TIMEOUT_S = 3
PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Which Triton would ask on the way to a receiver of spans, also to one that `no_proxy` lists."""


def triton_flags(
    settings: ServingSettings, endpoints: Endpoints, folder: Path, models: Iterable[str], secret: str
) -> list[str]:
    """Return the flags of a server that loads these models of the repository in `folder`. `secret` is the key
    of its administrative endpoints."""
    backend = {
        "shm-region-prefix-name": f"{settings.runtime_dir.name}-",
        "shm-default-byte-size": REGION_BYTES,
        "shm-growth-byte-size": REGION_BYTES,
    }
    return [
        f"--model-repository={folder}",
        # Only explicit control can unload and load a model, which alone revives a dead node.
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        # The committed configurations are complete; guessing them costs each model another process.
        "--disable-auto-complete-config",
        *(f"--{name}-address={endpoints.address}" for name in ("http", "grpc", "metrics")),
        *(f"{option}={port}" for option, port in endpoints.triton_ports.items()),
        # Triton 2.51 has no histogram of latencies, only quantiles of the last minute.
        "--metrics-config=summary_latencies=true",
        *_trace_flags(settings),
        *(f"--backend-config=python,{key}={value}" for key, value in backend.items()),
        f"--grpc-restricted-protocol={ADMIN_PROTOCOLS}:{ADMIN_KEY}={secret}",
        f"--http-restricted-api={ADMIN_PROTOCOLS}:{ADMIN_KEY}={secret}",
        # Nodes find a request's header of this name among its parameters.
        *(f"--{name}-header-forward-pattern=^{ADMIN_HEADER}$" for name in ("grpc", "http")),
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={UNLOAD_TIMEOUT_S}",
        "--log-verbose=0",
    ]


def environment(settings: ServingSettings, library_path: Sequence[Path]) -> dict[str, str]:
    """Return the environment of a server and its nodes: this process's, with the settings, and with libraries
    of `library_path` before others."""
    left_out = {"PYTHONHOME", *(PROXIES if _is_here(settings.trace_url) else ())}
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {
        **inherited,
        **settings.as_environment(),
        **settings.secret_environment(),
        **settings.compiler_environment(),
        "LD_LIBRARY_PATH": _joined(*library_path, inherited.get("LD_LIBRARY_PATH")),
        # The stub's interpreter takes its prefix, and so its packages, from the first `python3` here.
        "PATH": _joined(Path(sys.executable).parent, inherited.get("PATH")),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(settings.threads),
    }


def _trace_flags(settings: ServingSettings) -> list[str]:
    if settings.trace_url is None:
        return []
    choices = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={settings.trace_rate}",
        f"opentelemetry,url={settings.trace_url}",
        "opentelemetry,resource=service.name=unipinrec",
    )
    return [f"--trace-config={choice}" for choice in choices]


def _is_here(url: str | None) -> bool:
    host = urlsplit(url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _joined(*parts: Path | str | None) -> str:
    return os.pathsep.join(str(part) for part in parts if part)
