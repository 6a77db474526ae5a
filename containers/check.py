"""The whole check: build, start, ask, stop, and a report of all of it."""

import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unipinrec_client import GrpcClient, HttpClient, RecommendRequest

from containers.compose import Service
from containers.confinement import Promise, promises
from containers.container import Container
from containers.engine import Engine, EngineError, Step
from containers.shared_store import KNOWN_USER, append_known_user
from ensemble.server.endpoints import Endpoints
from ensemble.settings import ROOT

IMAGE = "unipinrec:image-check"
DOCKERFILE = ROOT / "docker" / "Dockerfile.cpu"
UNKNOWN_USER = "nobody has this id"
LARGEST_BYTES = 2 * 10**9
"""What the image may take, all layers unpacked."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Answer:
    """One request over one protocol."""

    protocol: str
    user: str
    items: tuple[int, ...]
    kv_source: str
    bundle_id: str
    milliseconds: float


@dataclass(kw_only=True, slots=True)
class Report:
    """What was run and found; written as JSON."""

    engine: str
    """Docker or Podman, with its version."""
    machine: str
    bundle: str
    measured_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    build_s: float = 0.0
    """Seconds of the build, with what it fetches."""
    image_bytes: int = 0
    """All layers, unpacked."""
    healthy_s: float = 0.0
    """Seconds from the start of the container until its health check passed."""
    stop_s: float = 0.0
    """Seconds that the stop took."""
    grace_s: float = 0.0
    """Seconds that the compose file leaves it."""
    promises: list[Promise] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    scale: Mapping[str, Any] | None = None
    """What three replicas behind the proxy did, where that was asked for."""
    steps: list[Step] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes it to `path`, whose folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def start_report(engine: Engine, bundle: Path) -> Report:
    """A report without findings."""
    return Report(
        engine=engine.run("--version"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        bundle=bundle.resolve().name,
        steps=engine.steps,
    )


def variables(bundle: Path, stores: Path) -> dict[str, str]:
    """Return the compose file's variables for a bundle and a folder of stores here; no more cores than there
    are."""
    cores = Service.read("server", {}).cpus
    return {
        "UNIPINREC_BUNDLES": str(bundle.parent.resolve()),
        "UNIPINREC_STORES": str(stores),
        "UNIPINREC_CPUS": f"{min(cores, os.cpu_count() or 1):g}",
    }


def build(engine: Engine, report: Report, options: list[str]) -> None:
    """Builds the image of the compose file's server; `options` are the engine's own.

    Raises:
        EngineError: the build fails, or the image is larger than `LARGEST_BYTES`.
    """
    target = Service.read("server", {}).keys["build"]["target"]
    began = time.monotonic()
    given = [f"--file={DOCKERFILE}", f"--target={target}", f"--tag={IMAGE}", *options]
    engine.run("build", *given, str(ROOT), shown=True)
    report.build_s = round(time.monotonic() - began, 1)
    report.image_bytes = engine.image_bytes(IMAGE)
    if report.image_bytes > LARGEST_BYTES:
        raise EngineError(f"image takes {report.image_bytes:,} bytes; allowed: at most {LARGEST_BYTES:,}")


def try_one(engine: Engine, report: Report, bundle: Path, stores: Path) -> None:
    """Starts the image as the compose file's server, appends a history to its store, asks it over both
    protocols and stops it.

    Raises:
        EngineError: it is confined otherwise, answers otherwise over the other, does not see the history, or
            does not end in time.
    """
    service = Service.read("server", variables(bundle, stores))
    with Container(engine, IMAGE, service, bundle.name, Endpoints.free()) as container:
        report.healthy_s = round(container.wait_until_healthy(), 1)
        report.promises = promises(service, container.probe())
        for promise in report.promises:
            engine.report(f"  {promise}")
        broken = [str(promise) for promise in report.promises if not promise.kept]
        if broken:
            raise EngineError(f"container is not as the compose file has it: {'; '.join(broken)}")
        append_known_user(stores, bundle)
        report.answers = ask(container, [KNOWN_USER, UNKNOWN_USER])
        for answer in report.answers:
            engine.report(
                f"  {answer.protocol} {answer.user!r}: {len(answer.items)} items ({answer.kv_source}) "
                f"in {answer.milliseconds:.1f} ms, bundle {answer.bundle_id}"
            )
        if report.answers[0].items == report.answers[-1].items:
            raise EngineError(f"user {KNOWN_USER!r} is answered as a user without a history is")
        report.stop_s, report.grace_s = round(container.stop(), 1), service.grace_s


def ask(container: Container, users: list[str]) -> list[Answer]:
    """Asks for each user over each protocol.

    Raises:
        EngineError: a user gets nothing, or other items over HTTP than over gRPC.
    """
    answers: list[Answer] = []
    with ExitStack() as stack:
        clients = {
            "gRPC": stack.enter_context(GrpcClient(container.grpc_url)),
            "HTTP": stack.enter_context(HttpClient(container.http_url)),
        }
        for user in users:
            seen: set[tuple[int, ...]] = set()
            for protocol, client in clients.items():
                began = time.perf_counter()
                response = client.recommend(RecommendRequest(user_id=user, num_results=10))
                took = 1000 * (time.perf_counter() - began)
                items = tuple(item.item_id for item in response.recommendations)
                seen.add(items)
                answers.append(
                    Answer(
                        protocol=protocol,
                        user=user,
                        items=items,
                        kv_source=response.kv_source,
                        bundle_id=response.bundle_id,
                        milliseconds=round(took, 1),
                    )
                )
            if len(seen) > 1 or not all(seen):
                raise EngineError(f"user {user!r} gets {sorted(seen)}; wanted: the same items over both")
    return answers
